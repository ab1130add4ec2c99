# Arrays for results, in memory that the results before them have left behind.
cimport numpy as cnp

# A C-contiguous array of unknown content, plain ndarray. Small ones are those of NumPy.
cdef cnp.ndarray empty(int ndim, cnp.npy_intp *shape, cnp.dtype dtype)

# Counts a call, so that memory which nobody has asked for in many of them goes back to the system.
cdef void tick() noexcept nogil

# Gives all idle memory back, and returns whether there was any: what failed for want of memory may be tried again.
cdef bint release() noexcept nogil
