# The C interface for Cython: `cimport xent.xent`. The manual is xent.h, in xent.get_include().
from libc.stdint cimport int64_t

cdef extern from "xent.h" nogil:
    ctypedef enum xent_dtype:
        XENT_F32
        XENT_F64
        XENT_F16
        XENT_BF16
        XENT_BOOL
        XENT_I8
        XENT_U8
        XENT_I16
        XENT_U16
        XENT_I32
        XENT_U32
        XENT_I64
        XENT_U64

    ctypedef enum xent_status:
        XENT_OK
        XENT_BAD_TARGET
        XENT_BAD_PROBABILITY
        XENT_NO_MEMORY
        XENT_BAD_LAYOUT
        XENT_INTERRUPTED

    ctypedef enum xent_operation:
        XENT_CROSS_ENTROPY
        XENT_FOCAL_LOSS
        XENT_POLY1_LOSS
        XENT_NLL_LOSS
        XENT_CATEGORICAL_CROSS_ENTROPY
        XENT_DISTILLATION_LOSS
        XENT_ENTROPY
        XENT_BINARY_CROSS_ENTROPY
        XENT_BINARY_CROSS_ENTROPY_WITH_LOGITS
        XENT_SIGMOID_FOCAL_LOSS
        XENT_KL_DIV
        XENT_LOGSUMEXP
        XENT_SOFTMAX
        XENT_LOG_SOFTMAX

    ctypedef enum xent_reduction:
        XENT_NONE
        XENT_SUM
        XENT_MEAN
        XENT_BATCH_MEAN

    ctypedef enum xent_function:
        XENT_EXP
        XENT_LOG
        XENT_LOG1P
        XENT_TANH
        XENT_TANH_SLOPE
        XENT_LOG1P_UNIT

    ctypedef struct xent_array:
        void *data
        const int64_t *strides

    ctypedef struct xent_call:
        xent_operation operation
        xent_dtype dtype
        int ndim
        const int64_t *shape
        int64_t classes
        int64_t logits_class_step
        int64_t soft_class_step
        int64_t out_class_step
        int64_t hess_class_step
        xent_array logits
        xent_array index
        xent_array soft
        xent_dtype index_type
        const void *class_weight
        xent_array sample_weight
        xent_array grad_output
        xent_array loss
        xent_array lse
        xent_array out
        xent_array hess
        int has_ignore
        int64_t ignore_index
        double label_smoothing
        double strength
        double eps
        double z_loss
        double softcap
        double temperature
        xent_array pos_weight
        double alpha
        int log_target
        double *block_sums
        xent_reduction reduction
        double grad_scale
        int threads
        int (*poll)(void *data) noexcept
        void *poll_data
        double divisor
        double total
        double result
        int64_t bad_row

    const xent_call XENT_CALL_DEFAULTS
    xent_status xent_run(xent_call *call)
    xent_status xent_prepare(xent_call *call)
    xent_status xent_compute(xent_call *call)
    xent_status xent_finish(xent_call *call)
    int xent_readable(const xent_call *call)
    void xent_set_num_threads(int threads)
    int xent_get_num_threads()
    const char *xent_start()
    const char *xent_isa_name(int i)
    int xent_isa_available(int i)
    const char *xent_isa()
    int xent_use_isa(const char *name)
    const char *xent_openmp()
    const char *xent_compiler()
    double xent_memory_read(const void *source, int64_t bytes, int threads)
    void xent_memory_copy(void *to, const void *source, int64_t bytes, int threads)
    void xent_math(xent_function function, xent_dtype dtype, const void *source, void *to, int64_t n)
