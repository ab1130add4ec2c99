# The C interface for Cython: `cimport xent.xent`. The manual is xent.h, in xent.get_include().
from libc.stdint cimport int64_t

include "operations.pxi" # xent_operation, of which the build writes it

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
        XENT_BAD_ARGUMENT

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

    ctypedef struct xent_sums:
        double max
        double sum_exp
        double max_count
        double sum_a
        double sum_a_t
        double teacher_max
        double teacher_sum_exp
        double teacher_max_count
        double target_logit
        double target_weight
        double target_slope
        int64_t has_target
        int64_t class_begin
        int64_t class_end
        int64_t num_classes
        double temperature
        int64_t operation
        int64_t stream
        int64_t argmax

    ctypedef struct xent_call:
        size_t size
        const char *bad_argument
        int64_t bad_row
        double divisor
        double total
        double result
        xent_operation operation
        xent_dtype dtype
        int ndim
        xent_dtype index_type
        const int64_t *shape
        int64_t classes
        int64_t logits_class_step
        int64_t soft_class_step
        int64_t out_class_step
        int64_t hess_class_step
        xent_array logits
        xent_array index
        xent_array soft
        const void *class_weight
        xent_array sample_weight
        xent_array pos_weight
        xent_array grad_output
        xent_array loss
        xent_array lse
        xent_array out
        xent_array hess
        int64_t ignore_index
        int has_ignore
        int log_target
        double label_smoothing
        double strength
        double eps
        double z_loss
        double softcap
        double temperature
        double alpha
        double grad_scale
        xent_reduction reduction
        int threads
        int (*poll)(void *data) noexcept
        void *poll_data
        double *block_sums
        xent_sums *sums
        int64_t class_offset
        int64_t num_classes
        double entropy_weight
        xent_array lse_coef
        xent_array nll_coef
        xent_array entropy_coef
        xent_array smooth_coef
        int teacher_grad
        int score
        int top_k
        int64_t *rank
        int64_t *top_index
        double *top_logit
        double negative_strength
        double clip
        const void *class_bias
        int continues

    xent_call xent_call_defaults()
    const xent_call XENT_CALL_DEFAULTS
    xent_status xent_run(xent_call *call)
    xent_status xent_prepare(xent_call *call)
    xent_status xent_compute(xent_call *call)
    xent_status xent_finish(xent_call *call)
    xent_status xent_reduce(xent_call *call)
    xent_status xent_head(xent_call *call)
    xent_status xent_apply(xent_call *call)
    xent_status xent_merge(xent_sums *merged, const xent_sums *const *shards, int64_t count, int64_t rows, int64_t *bad_row)
    ctypedef struct xent_matrix:
        void *data
        xent_dtype dtype
        int64_t row_step
        int64_t column_step

    xent_status xent_multiply(const xent_matrix *a, const xent_matrix *b, const xent_matrix *out, int64_t rows,
                              int64_t columns, int64_t inner, int add, int threads, int (*poll)(void *data) noexcept,
                              void *poll_data)
    xent_status xent_round(void *to, xent_dtype dtype, const float *source, int64_t count, int threads)
    xent_status xent_unscale(void *data, xent_dtype dtype, int64_t count, double scale, int threads, int *all_finite)
    int xent_layout_supported(const xent_call *call)
    const char *xent_status_text(xent_status status)
    const char *xent_operation_name(xent_operation operation)
    const char *xent_version()
    void xent_set_num_threads(int threads)
    int xent_get_num_threads()
    int xent_thread_limit()
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
