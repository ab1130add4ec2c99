# For a module that cimports xent.xent and does not link the library: the functions are those of the copy that Python has
# loaded. xent_capi.h, in xent.get_include(), says more.
cdef extern from "xent_capi.h":
    int xent_import() except -1
