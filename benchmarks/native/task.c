/* Making a task, placing its arrays and running it. */
#include "task.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "call/platform.h"

const char *const role_names[ARRAYS] = {"x",    "second", "index", "class weight", "weight", "pos_weight", "upstream",
                                        "loss", "lse",    "out",   "hess",         "sums",   "chunks"};

/* Options. */

int element_size(xent_dtype type) {
    static const int sizes[] = {4, 8, 2, 2, 1, 1, 1, 2, 2, 4, 4, 8, 8};
    return sizes[type];
}

static void add_array(task *t, role which, xent_dtype type, int64_t rows, int64_t classes) {
    t->arrays[which] = (array){.type = type, .size = element_size(type), .rows = rows, .classes = classes};
}

static xent_dtype any_index_type(generator *g) { return (xent_dtype)(XENT_BOOL + (XENT_I64 - XENT_BOOL + pick(g, 9)) % 9); }

static void make_indices(task *t, xent_dtype type, generator *g) {
    const int is_signed = type == XENT_I8 || type == XENT_I16 || type == XENT_I32 || type == XENT_I64;
    t->plan.index_type = (int)type;
    t->plan.has_ignore = (int)pick(g, 2);
    t->plan.ignore = is_signed ? -100 : 100;
    t->out_of_range = (int)pick(g, 2);
    add_array(t, INDEX, type, t->rows, 1);
}

static void make_rows(task *t, generator *g) {
    const operation *o = t->operation;
    const xent_stream stream = (xent_stream)o->first;
    const xent_transform transform = (xent_transform)o->second;
    const xent_dtype stored = t->dtype, computed = stored == XENT_F64 ? XENT_F64 : XENT_F32;
    const int64_t rows = t->rows, classes = t->classes;
    const double each = 1 / (double)classes;
    const int given = transform == XENT_LOG_PROBS, capped = transform == XENT_SOFTCAP;
    const int softmax =
        o->output == LOG_SOFTMAX || (stream == XENT_NO_STREAM && !given && o->output != HESSIAN && pick(g, 4) == 1);
    const int scores = stream == XENT_SQUARES; /* sums alone are asked for */
    const int indexed = (stream <= XENT_WEIGHTS || scores) && !softmax;
    const int probabilities = given && pick(g, 2);
    const double smoothing = stream == XENT_WEIGHTS ? PICK(g, 0.1, 0.5, 1) : 0, mixing = PICK(g, 0, 0.1);
    t->plan = (xent_plan){
        .dtype = stored,
        .classes = classes,
        .num_classes = classes,
        .stream = stream,
        .transform = transform,
        .form = o->output == LOSS_ALONE    ? XENT_NO_OUTPUT
                : o->output == LOG_SOFTMAX ? XENT_LOGARITHMS
                                           : XENT_EXPONENTIALS,
        .modulation = (xent_modulation)(indexed && !given ? pick(g, XENT_POLY1 + 1) : XENT_UNMODULATED),
        .strength = PICK(g, 2, 0, 0.5, 3.5),
        .keep_infinite = softmax,
        .hard = softmax   ? 1
                : indexed ? 1 - smoothing
                          : 0,
        .smooth = indexed ? smoothing * each : 1,
        .z = given ? 0 : PICK(g, 0, 1e-4),
        .mix_keep = 1 - mixing,
        .mix_add = mixing * each,
        .softcap = capped ? PICK(g, 30, 5) : 0,
        .temperature = capped || transform == XENT_TEMPERATURE ? PICK(g, 2, 1, 0.7) : 1,
        .probabilities = probabilities,
        .clip = probabilities ? PICK(g, 0, 1e-7) : 0,
        .scale = softmax ? 1 : PICK(g, 1, 0.125, -0.3),
        .no_row_counts = !softmax && pick(g, 16) == 1,
    };
    add_array(t, X, stored, rows, classes);
    if (stream == XENT_SOFT || stream == XENT_TEACHER)
        add_array(t, SECOND, stream == XENT_SOFT ? computed : stored, rows, classes);
    if (indexed)
        make_indices(t, any_index_type(g), g);
    if (scores) {
        add_array(t, SUMS, XENT_F64, rows, (int64_t)(sizeof(xent_sums) / sizeof(double)));
        t->plan.modulation = XENT_UNMODULATED;
    }
    if (!softmax && stream <= XENT_SOFT && pick(g, 2))
        add_array(t, CLASS_WEIGHT, computed, classes, 1);
    if (!softmax && !scores && pick(g, 2))
        add_array(t, WEIGHT, computed, rows, 1);
    if (!softmax && !scores && pick(g, 2))
        add_array(t, UPSTREAM, computed, rows, 1);
    if (!softmax && !scores)
        add_array(t, LOSS, computed, rows, 1);
    if (!given && !scores && ((softmax && o->output == LOSS_ALONE) || pick(g, 2)))
        add_array(t, LSE, computed, rows, 1);
    if (o->output != LOSS_ALONE)
        add_array(t, OUT, stored, rows, classes);
    if (o->output == HESSIAN)
        add_array(t, HESS, stored, rows, classes);
    /* This is enough for any layout. */
    add_array(t, CHUNKS, XENT_F64, XENT_MOST_LANES * XENT_CHUNKS(classes) * (int64_t)(sizeof(xent_sums) / sizeof(double)),
              1);
}

/* The sums of one piece, or its gradient. */
static void make_region(task *t, generator *g) {
    const xent_dtype computed = t->dtype == XENT_F64 ? XENT_F64 : XENT_F32;
    t->plan.classes = t->classes;
    add_array(t, X, t->dtype, t->rows, t->classes);
    if (pick(g, 2))
        add_array(t, SECOND, computed, t->rows, t->classes);
    else
        make_indices(t, any_index_type(g), g);
    if (t->operation->output == GRADIENT) {
        add_array(t, CLASS_WEIGHT, XENT_F64, 2 * t->classes, 1); /* the slopes */
        add_array(t, OUT, t->dtype, t->rows, t->classes);
    } else {
        add_array(t, SUMS, XENT_F64, 3 * t->classes * (int64_t)(sizeof(double_double) / sizeof(double)), 1);
    }
    add_array(t, LOSS, XENT_I64, 1, 1); /* the first bad target */
}

/* The Jensen-Shannon divergence, and both gradients. */
static void make_divergence(task *t, generator *g) {
    t->plan.temperature = PICK(g, 2, 1, 0.7);
    t->plan.mix_keep = PICK(g, 0.5, 0.1, 0.9);
    add_array(t, X, t->dtype, t->rows, t->classes);
    add_array(t, SECOND, t->dtype, t->rows, t->classes);
    add_array(t, WEIGHT, XENT_F64, t->rows, 1); /* the slopes */
    add_array(t, LOSS, XENT_F64, t->rows, 1);
    if (t->operation->output == GRADIENT) {
        add_array(t, OUT, t->dtype, t->rows, t->classes);
        add_array(t, HESS, t->dtype, t->rows, t->classes);
    }
}

static void make_elements(task *t, generator *g) {
    const operation *o = t->operation;
    const xent_element element = (xent_element)o->first;
    const xent_dtype stored = t->dtype, computed = stored == XENT_F64 ? XENT_F64 : XENT_F32;
    const int is_loss = element < XENT_ONE;
    const double mixing = element < XENT_SIGMOID_FOCAL ? PICK(g, 0, 0.1) : 0;
    t->element_plan = (xent_element_plan){
        .dtype = stored,
        .element = element,
        .derivatives = o->second,
        .mix_keep = 1 - mixing,
        .mix_add = mixing / 2,
        .eps = element == XENT_BINARY_CLIPPED ? PICK(g, 1e-8, 1e-7, 0.2) : 0,
        .most = PICK(g, 1, 1 + 0x1p-7),
        .alpha = element == XENT_SIGMOID_FOCAL ? PICK(g, 0.25, -1) : -1,
        .gamma = PICK(g, 2, 0, 0.5, 3.5),
        .gamma_neg = element == XENT_ASYMMETRIC ? PICK(g, 4, 0, 0.5, 1) : 0,
        .clip = element == XENT_ASYMMETRIC ? PICK(g, 0.05, 0, 0.75) : 0,
        .log_target = element == XENT_KL && pick(g, 2),
        .scale = PICK(g, 1, 0.125, -0.3),
        .weight_scale = PICK(g, 1, 0.25),
    };
    if (element != XENT_ONE)
        add_array(t, X, stored, t->rows, 1);
    if (is_loss || (element == XENT_OUTSIDE && pick(g, 2)))
        add_array(t, SECOND, computed, t->rows, 1);
    if (element == XENT_ONE || (is_loss && pick(g, 2)))
        add_array(t, WEIGHT, computed, t->rows, 1);
    if ((element == XENT_BINARY_LOGITS && pick(g, 2)) || element == XENT_BINARY_UNBOUNDED)
        add_array(t, POS_WEIGHT, computed, t->rows, 1);
    if (is_loss && pick(g, 2))
        add_array(t, UPSTREAM, computed, t->rows, 1);
    const int64_t results = pick(g, 3);
    if (results)
        add_array(t, LOSS, computed, t->rows, 1);
    if (results < 2)
        add_array(t, SUMS, XENT_F64, XENT_MOST_LANES, 1);
    if (o->second > 0)
        add_array(t, OUT, stored, t->rows, 1);
    if (o->second > 1)
        add_array(t, HESS, stored, t->rows, 1);
}

/* The numbers of a product's task are a matrix of so many rows, of up to XENT_DEEP columns, and read in another order a
 * second one, of so many columns. */
static int64_t rows_of_product(int64_t numbers) {
    const int64_t whole = numbers / XENT_DEEP;
    return whole < 1 ? 1 : whole > XENT_GROUP ? XENT_GROUP : whole;
}

task make_task(const operation *operation, xent_dtype dtype, int64_t rows, int64_t classes, generator *g) {
    task t = {.operation = operation, .dtype = dtype, .layout = operation->layout, .rows = rows, .classes = classes};
    const xent_dtype computed = dtype == XENT_F64 ? XENT_F64 : XENT_F32;
    t.input_kind = (input_kind)pick(g, INPUT_KINDS);
    switch (operation->family) {
    case ROWS:
        make_rows(&t, g);
        break;
    case ELEMENTS:
        make_elements(&t, g);
        break;
    case REGION:
        make_region(&t, g);
        break;
    case DIVERGENCE:
        make_divergence(&t, g);
        break;
    case INDICES:
        t.plan.classes = (int64_t)PICK(g, 1000, 1, 1e6, 0x1p40);
        make_indices(&t, any_index_type(g), g);
        add_array(&t, LOSS, XENT_I64, 2, 1); /* the number of targets that count, and the first bad one */
        break;
    case MATH:
        add_array(&t, X, computed, rows, 1);
        add_array(&t, OUT, computed, rows, 1);
        break;
    case UNSCALE:
        add_array(&t, X, dtype, rows, 1);
        add_array(&t, OUT, dtype, rows, 1);
        add_array(&t, LOSS, XENT_I64, 1, 1); /* whether all were finite */
        break;
    case PRODUCT:
        add_array(&t, X, computed == XENT_F64 ? XENT_F32 : dtype, rows, 1);
        add_array(&t, OUT, XENT_F32, rows_of_product(rows) * rows_of_product(rows), 1);
        break;
    case ROUND:
        add_array(&t, X, XENT_F32, rows, 1);
        add_array(&t, OUT, dtype == XENT_BF16 ? XENT_BF16 : XENT_F16, rows, 1);
        break;
    case READ:
        add_array(&t, X, XENT_U8, rows, 1);
        add_array(&t, LOSS, XENT_F64, 1, 1);
        break;
    case COPY:
        add_array(&t, X, XENT_U8, rows, 1);
        add_array(&t, OUT, XENT_U8, rows, 1);
        break;
    }
    return t;
}

int64_t lay_out(task *t, layout layout, char *memory) {
    int64_t used = 0;
    t->layout = layout;
    for (int k = 0; k < ARRAYS; ++k) {
        array *a = &t->arrays[k];
        if (!a->size)
            continue;
        const int across = layout == COLUMNS;
        a->at = memory + used;
        a->row_step = across ? a->size : a->size * a->classes;
        a->class_step = across ? a->size * a->rows : a->size;
        used += (a->rows * a->classes * a->size + 63) / 64 * 64;
    }
    return used;
}

/* One run. */

/* The kernels' scratch, which grows. */
static void *workspace_of(const xent_kernels *kernels) {
    static void *workspace;
    static size_t bytes;
    if (bytes < kernels->workspace_bytes) {
        xent_free(workspace);
        bytes = (kernels->workspace_bytes + 63) / 64 * 64;
        workspace = xent_allocate(64, bytes);
        if (!workspace)
            abort();
    }
    return workspace;
}

/* As a call does with a long row that its threads share. */
static void run_stages(const xent_plan *plan, xent_rows row, const xent_kernels *kernels) {
    const int64_t classes = plan->classes, size = plan->dtype == XENT_F64 ? 8 : 4;
    xent_sums sums;
    row.sums = &sums;
    row.sums_step = sizeof sums;
    for (int64_t begin = 0; begin < classes; begin += XENT_CHUNK)
        kernels->reduce_chunks(plan, &row, begin, classes - begin < XENT_CHUNK ? classes : begin + XENT_CHUNK);
    const xent_sums merged = kernels->merge(row.chunks, XENT_CHUNKS(classes), plan->temperature, plan->stream);
    kernels->finish_row(plan, &row);
    if (memcmp(&merged.sum_exp, &sums.sum_exp, sizeof sums.sum_exp))
        abort();
    const int64_t size_of_part = isinf(sums.max) ? classes : 1000; /* each part looks for NaN beside +inf */
    for (int64_t begin = 0; begin < classes && plan->form != XENT_NO_OUTPUT; begin += size_of_part) {
        xent_plan shard = *plan;
        xent_rows part = row;
        shard.class_offset = begin;
        shard.classes = classes - begin < size_of_part ? classes - begin : size_of_part;
        shard.class_weight = plan->class_weight ? (const char *)plan->class_weight + begin * size : NULL;
        part.logits += begin * plan->logits_class_step;
        part.soft = row.soft ? row.soft + begin * plan->soft_class_step : NULL;
        part.out += begin * plan->out_class_step;
        part.hess = row.hess ? row.hess + begin * plan->hess_class_step : NULL;
        part.stages = XENT_APPLY;
        kernels->rows(&shard, &part);
    }
}

static void run_product(const task *t, const xent_kernels *kernels) {
    static _Alignas(64) float strips[XENT_PACKED(XENT_GROUP + XENT_TALL, XENT_TALL)];
    static _Alignas(64) float panels[XENT_PACKED(XENT_GROUP, XENT_MOST_LANES)];
    const array *a = t->arrays;
    const int64_t rows = rows_of_product(t->rows), depth = t->rows < XENT_DEEP ? t->rows : XENT_DEEP, size = a[X].size;
    const xent_dtype dtype = t->dtype == XENT_F64 ? XENT_F32 : t->dtype;
    const xent_factor left = {a[X].at, dtype, depth * size, size};
    /* Of bfloat16 both factors are contiguous along the inner axis, as an instruction for pairs would have them. */
    const xent_factor right = dtype == XENT_BF16 ? left : (xent_factor){a[X].at, dtype, size, rows * size};
    if (dtype == XENT_BF16 && kernels->multiplies_pairs && kernels->multiplies_pairs() &&
        kernels->pack_strip_pairs(strips, &left, rows, depth) && kernels->pack_panel_pairs(panels, &right, rows, depth)) {
        kernels->multiply_pairs(strips, panels, depth, a[OUT].at, rows * (int64_t)sizeof(float), rows, rows, 0);
        return;
    }
    kernels->pack_strips(strips, &left, rows, depth);
    kernels->pack_panels(panels, &right, rows, depth);
    kernels->multiply(strips, panels, depth, a[OUT].at, rows * (int64_t)sizeof(float), rows, rows, 0);
}

static void run_region(const task *t, const xent_kernels *kernels) {
    static void *workspace;
    static size_t bytes;
    const array *a = t->arrays;
    const size_t needed = ((size_t)xent_region_space(t->classes) + 63) / 64 * 64;
    if (bytes < needed) {
        xent_free(workspace);
        bytes = needed;
        workspace = xent_allocate(64, bytes);
        if (!workspace)
            abort();
    }
    const xent_region piece = {
        .dtype = t->dtype,
        .layout = t->layout == COLUMNS ? XENT_COLUMNS : XENT_NARROW,
        .classes = t->classes,
        .count = t->rows,
        .logits = a[X].at,
        .index = a[INDEX].at,
        .soft = a[SECOND].at,
        .logits_step = a[X].row_step,
        .logits_class_step = a[X].class_step,
        .soft_step = a[SECOND].row_step,
        .soft_class_step = a[SECOND].class_step,
        .index_step = a[INDEX].row_step,
        .out_step = a[OUT].row_step,
        .out_class_step = a[OUT].class_step,
        .index_type = t->plan.index_type,
        .has_ignore = t->plan.has_ignore,
        .ignore = t->plan.ignore,
        .sums = (double_double *)(void *)a[SUMS].at,
        .slope = (const double *)(const void *)a[CLASS_WEIGHT].at,
        .out = a[OUT].at,
        .non_temporal = t->plan.non_temporal,
        .workspace = workspace,
    };
    const int64_t bad = kernels->region(&piece);
    memcpy(a[LOSS].at, &bad, sizeof bad);
}

/* Of any dtype, computed in f64. */
static void run_divergence(const task *t, const xent_kernels *kernels) {
    const array *a = t->arrays;
    const xent_divergence call = {
        .of = {{t->dtype, a[X].at, a[OUT].at, a[X].row_step, a[OUT].row_step},
               {t->dtype, a[SECOND].at, a[HESS].at, a[SECOND].row_step, a[HESS].row_step}},
        .rows = t->rows,
        .classes = t->classes,
        .temperature = t->plan.temperature,
        .beta = t->plan.mix_keep,
        .loss = (double *)(void *)a[LOSS].at,
        .slope = (const double *)(const void *)a[WEIGHT].at,
    };
    kernels->divergence(&call, 0, t->rows, workspace_of(kernels));
}

static char *element_of(const array *arrays, role which, int64_t i) {
    return arrays[which].at ? element_at(&arrays[which], i, 0) : NULL;
}

void run(const task *t, const xent_kernels *kernels) {
    const array *a = t->arrays;
    const int64_t n = t->rows;
    if (t->operation->family == ROWS) {
        xent_plan plan = t->plan;
        plan.layout = t->layout == WIDE ? XENT_WIDE : t->layout == NARROW ? XENT_NARROW : XENT_COLUMNS;
        plan.logits_class_step = a[X].class_step;
        plan.soft_class_step = a[SECOND].class_step;
        plan.out_class_step = a[OUT].class_step;
        plan.hess_class_step = a[HESS].class_step;
        plan.class_weight = a[CLASS_WEIGHT].at;
        const xent_rows rows = {
            .count = n,
            .logits = a[X].at,
            .index = a[INDEX].at,
            .soft = a[SECOND].at,
            .weight = a[WEIGHT].at,
            .upstream = a[UPSTREAM].at,
            .loss = a[LOSS].at,
            .lse = a[LSE].at,
            .out = a[OUT].at,
            .hess = a[HESS].at,
            .logits_step = a[X].row_step,
            .index_step = a[INDEX].row_step,
            .soft_step = a[SECOND].row_step,
            .weight_step = a[WEIGHT].row_step,
            .upstream_step = a[UPSTREAM].row_step,
            .loss_step = a[LOSS].row_step,
            .lse_step = a[LSE].row_step,
            .out_step = a[OUT].row_step,
            .hess_step = a[HESS].row_step,
            .chunks = (xent_sums *)(void *)a[CHUNKS].at,
            .workspace = workspace_of(kernels),
            .sums = (xent_sums *)(void *)a[SUMS].at,
            .sums_step = a[SUMS].row_step,
            .stages = plan.stream == XENT_SQUARES ? XENT_REDUCE : XENT_ALL_STAGES,
        };
        if (t->in_stages)
            run_stages(&plan, rows, kernels);
        else
            kernels->rows(&plan, &rows);
    } else if (t->operation->family == ELEMENTS) {
        const int64_t most = t->plan.non_temporal ? XENT_PIECE : n;
        for (int64_t i = 0; i < n; i += most) {
            const xent_elements elements = {
                .count = n - i < most ? n - i : most,
                .x = element_of(a, X, i),
                .target = element_of(a, SECOND, i),
                .weight = element_of(a, WEIGHT, i),
                .pos_weight = element_of(a, POS_WEIGHT, i),
                .upstream = element_of(a, UPSTREAM, i),
                .loss = element_of(a, LOSS, i),
                .out = element_of(a, OUT, i),
                .hess = element_of(a, HESS, i),
                .sums = (double *)(void *)a[SUMS].at,
                .non_temporal = t->plan.non_temporal,
                .workspace = workspace_of(kernels),
            };
            kernels->elements(&t->element_plan, &elements);
        }
    } else if (t->operation->family == REGION) {
        run_region(t, kernels);
    } else if (t->operation->family == DIVERGENCE) {
        run_divergence(t, xent_kernels_for(XENT_F64));
    } else if (t->operation->family == INDICES) {
        const xent_indices indices = {
            .index = a[INDEX].at,
            .step = a[INDEX].row_step,
            .count = n,
            .type = t->plan.index_type,
            .has_ignore = t->plan.has_ignore,
            .ignore = t->plan.ignore,
            .classes = t->plan.classes,
        };
        int64_t found[2] = {0, -1}, outside = -1;
        found[0] = kernels->check(&indices, &found[1], &outside);
        memcpy(a[LOSS].at, found, sizeof found);
    } else if (t->operation->family == MATH) {
        kernels->math((xent_function)t->operation->first, a[X].at, a[OUT].at, n);
    } else if (t->operation->family == UNSCALE) {
        if (a[OUT].at != a[X].at)
            memcpy(a[OUT].at, a[X].at, (size_t)(n * a[X].size));
        const int multiplies = t->operation->first;
        const int64_t finite = kernels->unscale(t->dtype, a[OUT].at, n, multiplies ? 0x1p-10 : 3, multiplies);
        memcpy(a[LOSS].at, &finite, sizeof finite);
    } else if (t->operation->family == PRODUCT) {
        run_product(t, xent_kernels_for(XENT_F32));
    } else if (t->operation->family == ROUND) {
        kernels = xent_kernels_for(XENT_F32);
        kernels->round(t->dtype == XENT_BF16 ? XENT_BF16 : XENT_F16, a[OUT].at, a[X].at, n);
    } else if (t->operation->family == READ) {
        const double most = kernels->read(a[X].at, n);
        memcpy(a[LOSS].at, &most, sizeof most);
    } else {
        kernels->copy(a[OUT].at, a[X].at, n);
    }
}
