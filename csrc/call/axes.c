#include "axes.h"

int xent_join_axes(const xent_call *call, int last, int count, const xent_array *const *arrays, int64_t shape[MOST_AXES],
                   int64_t (*steps)[MOST_AXES]) {
    int ndim = 0;
    for (int i = 0; i < call->ndim; ++i) {
        const int d = last < 0 || i < last ? i : i < call->ndim - 1 ? i + 1 : last;
        if (call->shape[d] == 1)
            continue;
        int joins = ndim > 0;
        for (int k = 0; k < count && joins; ++k)
            joins = !arrays[k]->data || steps[k][ndim - 1] == arrays[k]->strides[d] * call->shape[d];
        const int at = joins ? ndim - 1 : ndim++;
        shape[at] = joins ? shape[at] * call->shape[d] : call->shape[d];
        for (int k = 0; k < count; ++k)
            steps[k][at] = arrays[k]->data ? arrays[k]->strides[d] : 0;
    }
    if (ndim > 0)
        return ndim;
    shape[0] = 1;
    for (int k = 0; k < count; ++k)
        steps[k][0] = 0;
    return 1;
}
