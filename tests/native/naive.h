/* What a call should result in, by its definition in double, from nothing but its fields, and how far that may be off. Rows
 * of infinities, NaN and numbers too large to be computed with so plainly are not compared. */
#ifndef XENT_TESTS_NAIVE_H
#define XENT_TESTS_NAIVE_H

#include <math.h>

#include "calls.h"

/* A number and the sum of the sizes of its terms. */
typedef struct {
    double value, size;
} naive;

static const double NAIVE_LARGEST = 1e4;
static const double NAIVE_ERROR = 4e-6; /* 64 times what a float loses when it is rounded */

static double naive_written(const void *at, xent_dtype dtype) {
    double x = NAN;
    float single;
    if (dtype == XENT_F64)
        memcpy(&x, at, sizeof x);
    else if (dtype == XENT_F32)
        memcpy(&single, at, sizeof single), x = (double)single;
    return x;
}

static double naive_number(const void *at, xent_dtype dtype) {
    const double x = naive_written(at, dtype);
    return fabs(x) <= NAIVE_LARGEST ? x : NAN;
}

/* Element `row`, in C order, of an array over the axes of the loss. */
static const char *naive_place(const xent_call *call, const xent_array *array, int64_t row) {
    const char *at = array->data;
    for (int d = call->ndim - 1; d >= 0; --d) {
        at += row % call->shape[d] * array->strides[d];
        row /= call->shape[d];
    }
    return at;
}

static double naive_of_row(const xent_call *call, const xent_array *array, int64_t row, double absent) {
    return array->data ? naive_number(naive_place(call, array, row), call->dtype) : absent;
}

static double naive_of_class(const xent_call *call, const xent_array *array, int64_t step, int64_t row, int64_t c) {
    const int64_t bytes = call->dtype == XENT_F64 ? 8 : 4;
    return naive_number(naive_place(call, array, row) + c * (step ? step : bytes), call->dtype);
}

/* Class c of an array of the compute type with one number a class. */
static double naive_of_classes(const xent_call *call, const void *array, int64_t c) {
    return naive_number((const char *)array + c * (call->dtype == XENT_F64 ? 8 : 4), call->dtype);
}

/* A logit as the softmax takes it. */
static double naive_logit(const xent_call *call, const xent_array *array, int64_t step, int64_t row, int64_t c) {
    const double b = call->class_bias && array == &call->logits ? naive_of_classes(call, call->class_bias, c) : 0;
    const double z = naive_of_class(call, array, step, row, c) + b;
    return (call->softcap > 0 ? call->softcap * tanh(z / call->softcap) : z) / call->temperature;
}

static double naive_lse(const xent_call *call, const xent_array *array, int64_t step, int64_t row) {
    double max = -INFINITY, sum = 0;
    for (int64_t c = 0; c < call->classes; ++c) {
        const double z = naive_logit(call, array, step, row, c);
        max = z > max || isnan(z) ? z : max;
    }
    for (int64_t c = 0; c < call->classes; ++c)
        sum += exp(naive_logit(call, array, step, row, c) - max);
    return max + log(sum);
}

static double naive_clipped(const xent_call *call, double p) {
    return call->eps <= 0 || isnan(p) ? p : fmin(fmax(p, call->eps), 1 - call->eps);
}

static double naive_class_weight(const xent_call *call, int64_t c) {
    return call->class_weight ? naive_of_classes(call, call->class_weight, c) : 1;
}

/* Adds factor times term, in which something of the size `lost` has been rounded. */
static void naive_add(naive *sum, double factor, double term, double lost) {
    if (factor == 0)
        return;
    sum->value += factor * term;
    sum->size += fabs(factor) * (fabs(term) + lost);
}

/* -log p of a class, and the logarithm's argument not rounded. */
static double naive_nll(const xent_call *call, int64_t row, int64_t c, double lse) {
    const double x = naive_of_class(call, &call->logits, call->logits_class_step, row, c);
    switch (traits_of(call)->input) {
    case OF_LOG_PROBABILITIES:
        return -x;
    case OF_PROBABILITIES:
        return -log(naive_clipped(call, x));
    default:
        return lse - naive_logit(call, &call->logits, call->logits_class_step, row, c);
    }
}

static naive naive_row_loss(const xent_call *call, int64_t row) {
    naive loss = {0, 0};
    const double e = call->label_smoothing, share = e / (double)call->classes;
    const double lse = naive_lse(call, &call->logits, call->logits_class_step, row);
    const int distils = traits_of(call)->stream == FROM_TEACHER;
    const double teacher_lse = distils ? naive_lse(call, &call->soft, call->soft_class_step, row) : 0;
    int64_t y = -1;
    if (call->index.data) {
        y = xent_load_index(naive_place(call, &call->index, row), (int)call->index_type);
        if (call->has_ignore && y == call->ignore_index)
            return (naive){0, 0};
    }
    for (int64_t c = 0; c < call->classes; ++c) {
        const double nll = naive_nll(call, row, c, lse), w = naive_class_weight(call, c);
        const double p = exp(-nll), g = call->strength;
        /* Logits are rounded when the log-sum-exp is taken from them; p, and its powers, multiply what that costs. */
        const double lost = (fabs(lse) + fabs(lse - nll)) * (1 + fabs(g)) * (1 + fabs(nll));
        switch (call->operation) {
        case XENT_ENTROPY:
            naive_add(&loss, p, nll, lost);
            break;
        case XENT_DISTILLATION_LOSS: {
            const double log_q = naive_logit(call, &call->soft, call->soft_class_step, row, c) - teacher_lse;
            const double squared = call->temperature * call->temperature;
            naive_add(&loss, squared * exp(log_q), log_q + nll,
                      (lost + fabs(teacher_lse) + fabs(log_q)) * (1 + fabs(log_q)));
            break;
        }
        default:
            if (!call->index.data)
                naive_add(&loss, w * (naive_of_class(call, &call->soft, call->soft_class_step, row, c) * (1 - e) + share),
                          nll, lost);
            else {
                const double of_target = call->operation == XENT_FOCAL_LOSS   ? pow(1 - p, g) * nll
                                         : call->operation == XENT_POLY1_LOSS ? nll + g * (1 - p)
                                                                              : nll;
                naive_add(&loss, share * w, nll, lost);
                naive_add(&loss, -call->entropy_weight * p, nll, lost);
                naive_add(&loss, c == y ? (1 - e) * w : 0, of_target, lost);
            }
        }
    }
    naive_add(&loss, call->z_loss, lse * lse, 0);
    return isnan(lse) ? (naive){NAN, 0} : loss;
}

static naive naive_element_loss(const xent_call *call, int64_t row) {
    naive loss = {0, 0};
    const double x = naive_of_row(call, &call->logits, row, NAN);
    const double e = call->label_smoothing, t = naive_of_row(call, &call->soft, row, NAN) * (1 - e) + e / 2;
    const double up = log1p(exp(-fabs(x))) + fmax(x, 0), down = log1p(exp(-fabs(x))) + fmax(-x, 0);
    const double g = call->strength, lost = (1 + fabs(x)) * (1 + fabs(g));
    switch (call->operation) {
    case XENT_BINARY_CROSS_ENTROPY: {
        const double p = naive_clipped(call, x), least = call->eps > 0 ? -INFINITY : -100;
        naive_add(&loss, -t, fmax(log(p), least), lost);
        naive_add(&loss, t - 1, fmax(log(1 - p), least), lost);
        break;
    }
    case XENT_BINARY_CROSS_ENTROPY_WITH_LOGITS:
        naive_add(&loss, t * naive_of_row(call, &call->pos_weight, row, 1), down, lost);
        naive_add(&loss, 1 - t, up, lost);
        break;
    case XENT_SIGMOID_FOCAL_LOSS: {
        const double q = t * exp(-up) + (1 - t) * exp(-down);
        const double alpha = call->alpha < 0 ? 1 : call->alpha * t + (1 - call->alpha) * (1 - t);
        naive_add(&loss, alpha * pow(q, g) * t, down, lost * (1 + down));
        naive_add(&loss, alpha * pow(q, g) * (1 - t), up, lost * (1 + up));
        break;
    }
    case XENT_ASYMMETRIC_LOSS: {
        const double p = exp(-down), m = fmax(p - call->clip, 0), others = call->negative_strength;
        const double rest = call->clip > 0 ? exp(-up) + call->clip : exp(-up);
        const double cost = m <= 0 ? 0 : m < 0.5 ? -log1p(-m) : call->clip > 0 ? -log(rest) : up;
        naive_add(&loss, pow(exp(-up), g) * t, down, lost * (1 + down));
        naive_add(&loss, pow(m, others) * (1 - t), cost, (1 + fabs(x)) * (1 + others) * (1 + cost));
        break;
    }
    default: /* the Kullback-Leibler divergence */
        naive_add(&loss, call->log_target ? exp(t) : t, (call->log_target ? t : log(t)) - x,
                  (fabs(t) + fabs(x)) * (1 + fabs(t)));
    }
    return isnan(x) ? (naive){NAN, 0} : loss;
}

static int naive_accepts(double got, naive want) {
    const double most = NAIVE_LARGEST * NAIVE_LARGEST;
    return !(want.size < most) || isnan(want.value) || fabs(got - want.value) <= NAIVE_ERROR * (1 + want.size);
}

static naive naive_of_lse(const xent_call *call, int64_t row) {
    const double lse = naive_lse(call, &call->logits, call->logits_class_step, row);
    return (naive){lse, fabs(lse)};
}

/* Whether row losses, log-sum-exps and the sum are those of a call that has succeeded; `out` of the softmax family. */
static int naive_judges(const xent_call *call) {
    if (call->dtype != XENT_F32 && call->dtype != XENT_F64)
        return 1;
    int64_t n = 1;
    for (int d = 0; d < call->ndim; ++d)
        n *= call->shape[d];
    const int is_loss_call = is_loss(call), rows = !is_elementwise(call);
    const int mean_of_nothing = is_loss_call && call->reduction == XENT_MEAN && call->divisor == 0;
    if ((rows && call->classes == 0) || mean_of_nothing)
        return 1;
    naive sum = {0, 0};
    const int in_place = call->out.data == call->logits.data; /* then there are no logits any more */
    for (int64_t row = 0; row < n && !in_place; ++row) {
        if (call->lse.data &&
            !naive_accepts(naive_written(naive_place(call, &call->lse, row), call->dtype), naive_of_lse(call, row)))
            return 0;
        if (!is_loss_call) {
            const double lse = naive_lse(call, &call->logits, call->logits_class_step, row);
            for (int64_t c = 0; call->out.data && c < call->classes; ++c) {
                const double z = naive_logit(call, &call->logits, call->logits_class_step, row, c) - lse;
                const double got = naive_of_class(call, &call->out, call->out_class_step, row, c);
                if (!naive_accepts(got, (naive){call->operation == XENT_SOFTMAX ? exp(z) : z, 2 * fabs(lse) + fabs(z)}))
                    return 0;
            }
            continue;
        }
        naive loss = rows ? naive_row_loss(call, row) : naive_element_loss(call, row);
        const double weight = naive_of_row(call, &call->sample_weight, row, 1);
        loss = weight == 0 ? (naive){0, 0} : (naive){loss.value * weight, loss.size * fabs(weight)};
        if (call->loss.data && !naive_accepts(naive_written(naive_place(call, &call->loss, row), call->dtype), loss))
            return 0;
        sum.value += loss.value, sum.size += loss.size;
    }
    if (!is_loss_call || call->reduction == XENT_NONE || in_place)
        return 1;
    return naive_accepts(call->total, sum) &&
           (call->reduction == XENT_SUM
                ? call->result == call->total || isnan(call->total)
                : naive_accepts(call->result * call->divisor, (naive){call->total, fabs(call->total)}) ||
                      call->divisor == 0);
}

#endif
