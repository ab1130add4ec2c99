# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, annotation_typing=False, cdivision=True, binding=False
"""The head of losses that are composed in Python: from sums to the numbers of each row, or of each class of a region.

Formulas and the order of operations of rows are those of csrc/kernels/head.h, exponentials and logarithms the kernels' own,
so that the bits are those of `cross_entropy`.
"""

import numpy as np

cimport numpy as cnp
from libc.math cimport INFINITY, NAN
from libc.stdint cimport int64_t
from libc.string cimport memcpy

from xent.capi cimport xent_import
from xent.xent cimport XENT_EXP, XENT_F32, XENT_F64, XENT_LOG1P, xent_function, xent_math

from xent import _core

cnp.import_array()
xent_import()

ctypedef fused real:
    float
    double


def kernel(str function, x):
    """Return a function of the kernels, "exp" or "tanh" say, of numbers in the compute dtype."""
    return _core.math(function, np.ascontiguousarray(x)).reshape(np.shape(x))


def capped(z, double softcap):
    """softcap tanh(z / softcap) and its derivative; infinite logits stay what they are, with the derivative 0."""
    number = z.dtype.type
    with np.errstate(all="ignore"):
        u, infinite = np.clip(z / number(softcap), -1e4, 1e4), np.isinf(z)
        value = np.where(infinite, z, number(softcap) * kernel("tanh", u))
        return value, np.where(infinite, number(0), kernel("tanh_slope", u))


def row_sums(x):
    """Sum the last axis, in place, in one order whatever the version of NumPy: the second half onto the first."""
    n = x.shape[x.ndim - 1]
    while n > 1:
        half = (n + 1) // 2
        x[..., : n - half] += x[..., half:n]
        n = half
    return x[..., 0] if n else np.zeros(x.shape[: x.ndim - 1])


cdef cnp.ndarray doubles(object a):
    """Return numbers as a contiguous array of float64."""
    return cnp.PyArray_FROM_OTF(a, cnp.NPY_DOUBLE, cnp.NPY_ARRAY_CARRAY_RO)


def copy_fields(cnp.ndarray to not None, sums, cnp.ndarray places not None):
    """Copy fields of sums to a contiguous array of another dtype, as many rows: those of 8 bytes at pairs of offsets, (n, 2)."""
    cdef cnp.ndarray source = np.ascontiguousarray(sums)
    cdef const int64_t *place = <const int64_t *>cnp.PyArray_DATA(places)
    cdef int64_t i, k, count = cnp.PyArray_DIM(places, 0)
    cdef char *into = <char *>cnp.PyArray_DATA(to)
    cdef const char *here = <const char *>cnp.PyArray_DATA(source)
    for i in range(cnp.PyArray_SIZE(to)):
        for k in range(count):
            memcpy(into + place[2 * k], here + place[2 * k + 1], 8)
        into += cnp.PyArray_ITEMSIZE(to)
        here += cnp.PyArray_ITEMSIZE(source)


cdef class Head:
    """What the sums of all classes say of each row; `sums` have the fields of xent_sums, and `real` is the compute dtype.

    Results have the shape of the argument, whose first axes are those of the rows.
    """

    cdef readonly object real
    cdef readonly cnp.ndarray sums, maximum, top, total, log_sum, lse
    cdef cnp.ndarray heat
    cdef bint single
    cdef int64_t rows

    def __init__(self, cnp.ndarray sums not None, number):
        self.sums, self.real, self.single = sums, number, number is np.float32
        self.rows, self.heat = cnp.PyArray_SIZE(sums), doubles(sums["temperature"])
        self.maximum, self.total, self.log_sum = self.like(sums), self.like(sums), self.like(sums)
        self.top, self.lse = self.like(sums), self.like(sums)
        find_totals(<float>0, self) if self.single else find_totals(<double>0, self)

    cdef cnp.ndarray like(self, cnp.ndarray a):
        return cnp.PyArray_EMPTY(cnp.PyArray_NDIM(a), cnp.PyArray_DIMS(a), cnp.NPY_FLOAT if self.single else cnp.NPY_DOUBLE, 0)

    cdef int math(self, xent_function function, cnp.ndarray source, cnp.ndarray to) except -1:
        xent_math(function, XENT_F32 if self.single else XENT_F64, cnp.PyArray_DATA(source), cnp.PyArray_DATA(to),
                  cnp.PyArray_SIZE(source))
        return 0

    def gap(self, logits):
        """(m - z) / T of logits after the cap; several of a row are on axes of their own."""
        cdef cnp.ndarray z = doubles(logits), gap = self.like(z)
        find_gaps(<float>0, self, z, gap) if self.single else find_gaps(<double>0, self, z, gap)
        return gap

    def nll(self, logits):
        """-log p of logits after the cap; several of a row are on axes of their own."""
        cdef cnp.ndarray found = self.gap(logits)
        add_log_sums(<float>0, self, found) if self.single else add_log_sums(<double>0, self, found)
        return found

    def prob(self, logits):
        """p of a logit of each row, after the cap."""
        cdef cnp.ndarray gap = self.gap(logits), prob = self.like(gap)
        find_probs(<float>0, self, gap, prob) if self.single else find_probs(<double>0, self, gap, prob)
        return prob

    def scaled(self, moments):
        """The sum of a_c (z_c - m) / T from that of a_c (z_c - m)."""
        cdef cnp.ndarray moment = doubles(moments), scaled = self.like(moment)
        scale(<float>0, self, moment, scaled) if self.single else scale(<double>0, self, moment, scaled)
        return scaled

    def center(self, moments):
        """The sum of p_c (z_c - m) / T from that of exp((z_c - m) / T) (z_c - m)."""
        cdef cnp.ndarray center = self.scaled(moments)
        divide(<float>0, self, center) if self.single else divide(<double>0, self, center)
        return center

    def cost(self, mass, moments):
        """The sum of a_c (lse - z_c) from those of a_c and a_c (z_c - m)."""
        cdef cnp.ndarray cost = self.scaled(moments), masses = doubles(mass)
        find_costs(<float>0, self, masses, cost) if self.single else find_costs(<double>0, self, masses, cost)
        return cost


cdef bint is_masked(double others, double count) noexcept:
    """Whether every class of a row is masked: none attains a maximum."""
    return others + count == 0


cdef int find_totals(real zero, Head head) except -1:
    """Fills what a head knows of its rows from the start."""
    cdef cnp.ndarray largest = doubles(head.sums["max"]), rest = head.lse
    cdef cnp.ndarray others = doubles(head.sums["sum_exp"]), count = doubles(head.sums["max_count"])
    cdef real *maximum = <real *>cnp.PyArray_DATA(head.maximum)
    cdef real *total = <real *>cnp.PyArray_DATA(head.total)
    cdef real *log_sum = <real *>cnp.PyArray_DATA(head.log_sum)
    cdef real *top = <real *>cnp.PyArray_DATA(head.top)
    cdef real *lse = <real *>cnp.PyArray_DATA(head.lse)
    cdef double *m = <double *>cnp.PyArray_DATA(largest)
    cdef double *s = <double *>cnp.PyArray_DATA(others)
    cdef double *k = <double *>cnp.PyArray_DATA(count)
    cdef double *heat = <double *>cnp.PyArray_DATA(head.heat)
    cdef int64_t i
    for i in range(head.rows):
        maximum[i] = <real>m[i]
        lse[i] = <real>NAN if is_masked(s[i], k[i]) else <real>s[i] + (<real>k[i] - <real>1)
        total[i] = lse[i] + <real>1
    head.math(XENT_LOG1P, rest, head.log_sum)
    for i in range(head.rows):
        top[i] = maximum[i] if heat[i] == 1 else maximum[i] * <real>(1 / heat[i])
        lse[i] = <real>-INFINITY if is_masked(s[i], k[i]) else top[i] + log_sum[i]
    return 0


cdef real heated(real t, double heat) noexcept:
    """Returns t / T: two products, one rounding of their sum."""
    cdef real cold, low
    if heat == 1:
        return t
    cold = <real>(1 / heat)
    low = <real>((1 - heat * <double>cold) / heat)
    return <real>(<long double>t * cold + <long double>(t * low))


cdef int find_gaps(real zero, Head head, cnp.ndarray logits, cnp.ndarray gaps) except -1:
    cdef const real *maximum = <const real *>cnp.PyArray_DATA(head.maximum)
    cdef const double *heat = <const double *>cnp.PyArray_DATA(head.heat)
    cdef const double *z = <const double *>cnp.PyArray_DATA(logits)
    cdef real *gap = <real *>cnp.PyArray_DATA(gaps)
    cdef int64_t i, j, each = cnp.PyArray_SIZE(logits) // max(head.rows, 1)
    cdef real t
    for i in range(head.rows):
        for j in range(i * each, (i + 1) * each):
            t = <real>z[j] - maximum[i]
            gap[j] = -(t if t == -INFINITY else heated(t, heat[i]))
    return 0


cdef int add_log_sums(real zero, Head head, cnp.ndarray gaps) except -1:
    cdef const real *log_sum = <const real *>cnp.PyArray_DATA(head.log_sum)
    cdef real *gap = <real *>cnp.PyArray_DATA(gaps)
    cdef int64_t i, j, each = cnp.PyArray_SIZE(gaps) // max(head.rows, 1)
    for i in range(head.rows):
        for j in range(i * each, (i + 1) * each):
            gap[j] += log_sum[i]
    return 0


cdef int find_probs(real zero, Head head, cnp.ndarray gaps, cnp.ndarray probs) except -1:
    cdef const real *gap = <const real *>cnp.PyArray_DATA(gaps)
    cdef const real *total = <const real *>cnp.PyArray_DATA(head.total)
    cdef real *prob = <real *>cnp.PyArray_DATA(probs)
    cdef cnp.ndarray negative = head.like(gaps)
    cdef real *t = <real *>cnp.PyArray_DATA(negative)
    cdef int64_t i
    for i in range(head.rows):
        t[i] = -gap[i]
    head.math(XENT_EXP, negative, probs)
    for i in range(head.rows):
        prob[i] = (<real>1 if gap[i] == 0 else prob[i]) / total[i]
    return 0


cdef int scale(real zero, Head head, cnp.ndarray moments, cnp.ndarray scaled) except -1:
    cdef const double *heat = <const double *>cnp.PyArray_DATA(head.heat)
    cdef const double *moment = <const double *>cnp.PyArray_DATA(moments)
    cdef real *to = <real *>cnp.PyArray_DATA(scaled)
    cdef int64_t i
    for i in range(head.rows):
        to[i] = <real>(moment[i] / heat[i])
    return 0


cdef int divide(real zero, Head head, cnp.ndarray scaled) except -1:
    """Divides sums that softmax's numerators weight by the sum of these."""
    cdef const real *total = <const real *>cnp.PyArray_DATA(head.total)
    cdef real *to = <real *>cnp.PyArray_DATA(scaled)
    cdef int64_t i
    for i in range(head.rows):
        to[i] /= total[i]
    return 0


cdef int find_costs(real zero, Head head, cnp.ndarray masses, cnp.ndarray costs) except -1:
    """Turns scaled sums into costs."""
    cdef const double *mass = <const double *>cnp.PyArray_DATA(masses)
    cdef const real *log_sum = <const real *>cnp.PyArray_DATA(head.log_sum)
    cdef real *cost = <real *>cnp.PyArray_DATA(costs)
    cdef int64_t i
    for i in range(head.rows):
        cost[i] = <real>mass[i] * log_sum[i] - cost[i]
    return 0


# Of regions.

def region_losses(cnp.ndarray sums not None, ratio, cnp.ndarray class_weight, bint mean, upstream):
    """Return the loss of each row of sums, the mean of its classes, and the derivatives with respect to P and TP.

    `sums` are P, TP and T of each row, (rows, 3, classes); `ratio` has the coefficients of `_regions.Ratio`. A class of weight
    0 does not count, even if it is NaN; a mean over weights that sum to 0 has no gradient.
    """
    cdef double overlap, joint, mass, target, smooth, above, below, share, scale, divisor = 0.0, loss, weight = 1.0
    cdef int64_t r, c, rows = cnp.PyArray_DIM(sums, 0), classes = cnp.PyArray_DIM(sums, 2)
    cdef cnp.ndarray all_sums = doubles(sums), losses = np.empty(rows), slopes = np.zeros((rows, 2, classes))
    cdef cnp.ndarray upstreams = doubles(np.broadcast_to(upstream, rows))
    cdef const double *s = <const double *>cnp.PyArray_DATA(all_sums)
    cdef const double *up = <const double *>cnp.PyArray_DATA(upstreams)
    cdef double *slope = <double *>cnp.PyArray_DATA(slopes)
    cdef double *to = <double *>cnp.PyArray_DATA(losses)
    cdef double *weights = NULL if class_weight is None else <double *>cnp.PyArray_DATA(class_weight)
    overlap, joint, mass, target, smooth = ratio
    for c in range(classes):
        divisor += 1.0 if weights == NULL else weights[c]
    for r in range(rows):
        loss = 0.0
        for c in range(classes):
            weight = 1.0 if weights == NULL else weights[c]
            if weight == 0:
                continue
            above = overlap * s[classes + c] + smooth
            below = joint * s[classes + c] + mass * s[c] + target * s[2 * classes + c] + smooth
            share = above / below
            loss += weight * (1 - share)
            if divisor == 0:
                continue
            scale = up[r] * weight / divisor
            if mean:
                scale /= rows
            slope[c] = scale * (mass * share / below)
            slope[classes + c] = scale * ((joint * share - overlap) / below)
        to[r] = loss / divisor
        s += 3 * classes
        slope += 2 * classes
    return losses, slopes
