"""Mutation tests: for each guarantee one mutation of the source that breaks it, which a test must catch.

    python tests/mutations.py                 every mutation, one on each core: builds plain C kernels, some twenty minutes
    python tests/mutations.py mean fork       those whose guarantee or file has one of the words
    python tests/mutations.py --quick         those that need no kernels compiled: Python and Cython, seconds for each
    python tests/mutations.py --list          prints the mutations and makes none

A mutation changes one place in the source: a constant, an order, a mask, a clamp. It is made in a copy of the source and
built there, and the tests that must catch it run until the first one fails. Mutations of Cython are linked with the kernels
of the installed library, which must be those of the source. The exit status is 1 if a mutation survives, cannot be built, or
its place is no longer in the source.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

from library import LIBRARY
from xent import _core

ROOT = Path(__file__).parent.parent
SECONDS = 600


class Mutation(NamedTuple):
    """A guarantee, the text of one place in the source with its replacement, and the tests that must fail.

    `tests` are arguments of pytest. `isa` is the instruction set that is built: plain C compiles ten times faster than the
    others. `machine` is the only processor architecture for which the place is compiled; empty, it is compiled for all.
    """

    guarantee: str
    file: str
    old: str
    new: str
    tests: str
    isa: str = "scalar"
    machine: str = ""

    @property
    def kernels(self) -> str:
        """The instruction set whose kernels must be compiled; none if those of the installed library serve."""
        return "" if self.file.startswith("src/") else self.isa

    @property
    def builds(self) -> bool:
        """Whether it needs a compiler."""
        return not self.file.endswith(".py")


LINES = "tests/test_semantics.py -k 'test_line and float32'"

MUTATIONS = (
    # What counts, and for how much.
    Mutation(
        "the mean over class indices divides by class weights too",
        "csrc/call/rows.c",
        "const int weighted = call->class_weight || call->sample_weight.data || call->sums;",
        "const int weighted = call->sample_weight.data || call->sums;",
        "tests/test_semantics.py -k test_mean",
    ),
    Mutation(
        "the mean over class probabilities divides by sample weights alone",
        "csrc/call/rows.c",
        "if (!is_loss(call) || (!call->index.data && !call->sample_weight.data))",
        "if (!is_loss(call) || !call->index.data)",
        "tests/test_semantics.py -k test_mean",
    ),
    Mutation(
        "the gradient of a mean of nothing is zeros",
        "csrc/kernels/targets.h",
        "if (plan->no_row_counts)",
        "if (0 && plan->no_row_counts)",
        "tests/test_semantics.py -k test_nothing",
    ),
    Mutation(
        "an ignored class may be one that exists",
        "csrc/kernels/targets.h",
        "return ((y == ignore) | ((uint64_t)y >= (uint64_t)plan->num_classes)) ? NO_TARGET : y;",
        "return (uint64_t)y >= (uint64_t)plan->num_classes ? NO_TARGET : y;",
        LINES,
    ),
    Mutation(
        "sample weights multiply the z-loss",
        "csrc/kernels/targets.h",
        "z = plan->z * weight;",
        "z = plan->z;",
        LINES,
    ),
    Mutation(
        "class weights are those of the target",
        "csrc/kernels/targets.h",
        "? (double)((const real *)plan->class_weight)[target]",
        "? (double)((const real *)plan->class_weight)[0]",
        "tests/test_options.py -k test_option",
    ),
    Mutation(
        "label smoothing shares its part among the classes",
        "csrc/call/plan.c",
        ".mix_add = n ? e / (double)n : 0,",
        ".mix_add = e,",
        "tests/test_options.py -k test_option",
    ),
    # Boosting.
    Mutation(
        "objectives differentiate the sum of the rows' losses",
        "src/xent/_boosting.py",
        'index, weight, reduction="sum", **options)',
        'index, weight, reduction="mean", **options)',
        "tests/test_boosting.py -k derivatives_of_softmax",
    ),
    Mutation(
        "LightGBM's gradients are in Fortran order, as it reads them",
        "src/xent/_boosting.py",
        "return empty_array(scores.shape[::-1], F32).T",
        "return empty_array(scores.shape, F32)",
        "tests/test_boosting.py -k as_they_are",
    ),
    Mutation(
        "the Hessian of a focal objective is never negative",
        "src/xent/_boosting.py",
        "np.exp(-nll) * ratio)",
        "np.exp(-nll) * (ratio - 1))",
        "tests/test_boosting.py -k slope",
    ),
    Mutation(
        "no element of an objective's Hessian is 0",
        "src/xent/_boosting.py",
        "            np.maximum(hess, LEAST_HESS, out=hess)\n",
        "",
        "tests/test_boosting.py -k vanishes",
    ),
    Mutation(
        "labels that are no integers are no classes",
        "src/xent/_boosting.py",
        "bad = (index != labels) | (index < 0)",
        "bad = (index < 0)",
        "tests/test_boosting.py -k labels_that",
    ),
    Mutation(
        "an empty array of weights stands for none",
        "src/xent/_boosting.py",
        "if weight.shape == (0,):",
        "if weight.shape == (1,):",
        "tests/test_boosting.py -k both_interfaces",
    ),
    Mutation(
        "a block of rows has the weights of its own rows",
        "src/xent/_boosting.py",
        "None if weight is None else weight[rows]",
        "None if weight is None else weight[: len(scores[rows])]",
        "tests/test_boosting.py -k test_blocks",
    ),
    Mutation(
        "the Hessian of LightGBM's softmax has its factor",
        "src/xent/boosting.py",
        "lambda classes: classes / (classes - 1)",
        "lambda classes: 1.0",
        "tests/test_boosting.py -k derivatives_of_softmax",
    ),
    Mutation(
        "an objective keeps class weights of its own",
        "src/xent/_boosting.py",
        "None if weights is None else weights.copy()",
        "weights",
        "tests/test_boosting.py -k values",
    ),
    # Logits that are products.
    Mutation(
        "an ignored row of NaN reaches no gradient of a linear layer",
        "src/xent/_linear.py",
        "counts &= self.index != self.request.ignore_index",
        "counts &= True",
        "tests/test_linear.py -k poison",
    ),
    Mutation(
        "every block adds to the gradient of a linear layer's weight",
        "src/xent/_linear.py",
        "self.sum[classes] += term",
        "self.sum[classes] = term",
        "tests/test_linear.py -k test_blocks",
    ),
    Mutation(
        "the gradient of hidden states may take their place",
        "src/xent/_linear.py",
        """            self.add_to_sums(gradient)
            self.store_hidden(block, gradient)
""",
        """            self.store_hidden(block, gradient)
            self.add_to_sums(gradient)
""",
        "tests/test_linear.py -k in_place",
    ),
    Mutation(
        "few logits have their bias",
        "src/xent/_layer.pyx",
        "if bias is not None:\n            logits",
        "if False:\n            logits",
        "tests/test_linear.py -k 'option or minus'",
    ),
    Mutation(
        "bits of bfloat16 are read as such among arrays of other dtypes",
        "src/xent/_layer.pyx",
        "(arguments.are_bits(a) if mixed else not found)",
        "not found",
        "tests/test_linear.py",
    ),
    # The head of what is composed.
    Mutation(
        "a row whose classes are all masked has no log-sum-exp",
        "src/xent/_head.pyx",
        "<real>-INFINITY if is_masked(s[i], k[i]) else top[i] + log_sum[i]",
        "top[i] + log_sum[i]",
        "tests/test_stage_losses.py -k nan_infinities",
    ),
    Mutation(
        "a temperature divides in two products and one rounding, as in the kernels",
        "src/xent/_head.pyx",
        "<real>(<long double>t * cold + <long double>(t * low))",
        "t * cold",
        "tests/test_stage_losses.py -k any_temperature",
    ),
    # PyTorch.
    Mutation(
        "a gradient that the forward has kept is multiplied by the upstream gradient",
        "src/xent/torch/_operation.py",
        "(grad if factor == 1 else grad.mul_(factor))",
        "grad",
        "tests/test_torch.py -k 'test_cross_entropy or test_linear_cross_entropy'",
    ),
    Mutation(
        "and given away: a second backward computes it again",
        "src/xent/torch/_operation.py",
        "kept, ctx.grads = ctx.grads, None",
        "kept = ctx.grads",
        "tests/test_torch.py -k second_backward",
    ),
    Mutation(
        "a small loss of a half type keeps no gradient, which would be rounded before it is scaled",
        "src/xent/torch/_operation.py",
        "input.numel() <= SMALL and input.dtype in WIDE",
        "input.numel() <= 1 << 20",
        "tests/test_torch.py -k loss_scale",
    ),
    Mutation(
        "nor is the gradient of a layer rounded to a half type before it is scaled",
        "src/xent/torch/_losses.py",
        "wide_grads=tuple(needed)",
        "wide_grads=None",
        "tests/test_torch.py -k loss_scale",
    ),
    Mutation(
        "weights of elements do not divide PyTorch's mean",
        "src/xent/torch/_losses.py",
        'reduction, count = "sum", input.numel()',
        "count = 1",
        "tests/test_torch.py -k test_losses_of_elements",
    ),
    Mutation(
        "a tensor without a derivative that requires grad is refused",
        "src/xent/torch/_operation.py",
        "if name not in self.differentiable:",
        "if False:",
        "tests/test_torch.py -k of_others_are_refused",
    ),
    Mutation(
        "an operator's gradient has the strides that its fake kernel declares",
        "src/xent/torch/_operator.py",
        "torch.empty_like(like).copy_(grad)",
        "grad",
        "tests/test_torch.py -k opcheck_of_any_strides",
    ),
    Mutation(
        "a second derivative is an error, not zero",
        "src/xent/torch/_operation.py",
        "if torch.is_grad_enabled():  # a",
        "if False:  # a",
        "tests/test_torch.py -k second_derivative",
    ),
    Mutation(
        "bfloat16 tensors are read as bfloat16",
        "src/xent/torch/_tensors.py",
        "tensor.detach().view(torch.uint16)",
        "tensor.detach().view(torch.float16)",
        "tests/test_torch.py -k test_cross_entropy",
    ),
    Mutation(
        "a call that is traced is an operator of the graph",
        "src/xent/torch/_operation.py",
        "torch._C._get_tracing_state() is None",
        "True",
        "tests/test_torch.py -k traced",
    ),
    # Logits that are similarities.
    Mutation(
        "a block of rows is its own shard of the columns' classes",
        "src/xent/_contrastive.py",
        "stages.merge(self.column_sums, shard) if begin else shard",
        "shard",
        "tests/test_contrastive.py -k test_blocks",
    ),
    Mutation(
        "the columns' gradient is computed before that of the rows overwrites the similarities",
        "src/xent/_contrastive.py",
        """                self.apply_to(slab, self.index, 0, here.start, column_sums, coef, columns)
                self.apply_to(slab, self.index[here], 1, 0, row_sums[here], coef[here], slab)
""",
        """                self.apply_to(slab, self.index[here], 1, 0, row_sums[here], coef[here], slab)
                self.apply_to(slab, self.index, 0, here.start, column_sums, coef, columns)
""",
        "tests/test_contrastive.py -k test_loss_and_gradients",
    ),
    Mutation(
        "a slab knows which classes of the columns it holds",
        "src/xent/_contrastive.py",
        "self.apply_to(slab, self.index, 0, here.start, column_sums",
        "self.apply_to(slab, self.index, 0, begin, column_sums",
        "tests/test_contrastive.py -k test_blocks",
    ),
    Mutation(
        "the last block of similarities is not computed twice",
        "src/xent/_contrastive.py",
        "if block is blocks[-1] else self.load(block)[0]",
        "if False else self.load(block)[0]",
        "tests/test_contrastive.py -k test_products",
    ),
    Mutation(
        "the temperature's derivative is the sum over all blocks",
        "src/xent/_contrastive.py",
        "self.inner += float(products.sum(dtype=np.float64))",
        "self.inner = float(products.sum(dtype=np.float64))",
        "tests/test_contrastive.py -k test_blocks",
    ),
    Mutation(
        "a pair's logit has its sign flipped, and its gradient flipped back",
        "src/xent/_contrastive.py",
        """                if out is not None:
                    slab[pairs] = -slab[pairs]
""",
        """                if out is not None:
""",
        "tests/test_contrastive.py -k certain",
    ),
    Mutation(
        "norms of any size: a vector is divided by its largest number before it is squared",
        "src/xent/_contrastive.py",
        "np.where(largest == 0, 1, largest)",
        "np.ones_like(largest)",
        "tests/test_contrastive.py -k norms_of_any_size",
    ),
    Mutation(
        "the gradient of a zero vector is zero",
        "src/xent/_contrastive.py",
        "np.where(norm == 0, 0, across)",
        "across",
        "tests/test_contrastive.py -k zero_vectors",
    ),
    Mutation(
        "a pair of similarities' loss has the mean of both sides' gradients",
        "src/xent/_contrastive.py",
        "0.5 * self.upstream[1]",
        "self.upstream[1]",
        "tests/test_contrastive.py -k difference_quotients",
    ),
    # Targets.
    Mutation(
        "a target out of range is an error before anything is written",
        "csrc/kernels/targets.h",
        "inside += (uint64_t)y[i] < classes && y[i] != ignore;",
        "inside += y[i] < indices->classes && y[i] != ignore;",
        "tests/test_semantics.py -k target_out_of_range",
    ),
    Mutation(
        "targets are checked again where they are used",
        "csrc/kernels/targets.h",
        "return ((y == ignore) | ((uint64_t)y >= (uint64_t)plan->num_classes)) ? NO_TARGET : y;",
        "return y == ignore ? NO_TARGET : y;",
        "tests/test_layout.py -k checked_again",
    ),
    Mutation(
        "the logit of a target that is no class is looked up nowhere",
        "csrc/kernels/targets.h",
        "return (uint64_t)target < (uint64_t)plan->classes ? target : 0;",
        "return target;",
        "tests/test_layout.py -k checked_again",
    ),
    # Infinities and NaN.
    Mutation(
        "blocks of masked classes make no NaN",
        "csrc/kernels/vector.h",
        "#define f32_constant_LARGEST 0x1.fffffep127f",
        "#define f32_constant_LARGEST (float)INFINITY",
        LINES,
    ),
    Mutation(
        "0 times -inf is 0 for class probabilities",
        "csrc/kernels/reduce_wide.h",
        "*s->sum_a_t = v(select)(v(ne)(a, zero), v(fma)(a, t, *s->sum_a_t), *s->sum_a_t);",
        "*s->sum_a_t = v(fma)(a, t, *s->sum_a_t);",
        LINES,
    ),
    Mutation(
        "NaN in a row makes its loss NaN",
        "csrc/kernels/reduce_wide.h",
        "*counts = v(nlt)(exponent, v(set)(c(EXP_LEAST)));",
        "*counts = v(lt)(v(set)(c(EXP_LEAST)), exponent);",
        LINES,
    ),
    Mutation(
        "a row whose classes are all masked has loss NaN",
        "csrc/kernels/head.h",
        "v(select)(empty, v(set)((real)NAN), v(add)(sums->sum_exp, v(sub)(sums->max_count, one)));",
        "v(add)(sums->sum_exp, v(sub)(sums->max_count, one));",
        LINES,
    ),
    Mutation(
        "a class that the student alone masks costs infinity, however unlikely for the teacher",
        "csrc/kernels/reduce_wide.h",
        "sums->sum_a_t += INFINITY;",
        "sums->sum_a_t += 0;",
        "tests/test_distillation.py -k however_unlikely",
    ),
    Mutation(
        "infinities pass through the cap",
        "csrc/kernels/math.h",
        "v(select)(finite, value, x)",
        "value",
        LINES,
    ),
    Mutation(
        "class probabilities need not sum to 1",
        "csrc/kernels/head.h",
        "sum_coef = v(fma)(terms->grad_smooth, sums->sum_a, sum_coef);",
        "sum_coef = v(add)(terms->grad_smooth, sum_coef);",
        LINES,
    ),
    # Accuracy.
    Mutation(
        "confident rows keep the digits of their loss",
        "csrc/kernels/head.h",
        "log_sum = v(log1p)(rest);",
        "log_sum = v(log)(total);",
        "tests/test_accuracy.py -k certain_rows",
    ),
    Mutation(
        "confident rows keep the digits of their gradient",
        "csrc/kernels/head.h",
        "to->target_grad = v(mul)(v(sub)(zero, hard), others);",
        "to->target_grad = v(mul)(hard, v(sub)(probability, one));",
        "tests/test_accuracy.py -k certain_rows",
    ),
    Mutation(
        "exp is good to 0.89 ulp",
        "csrc/kernels/vector.h",
        "0x1.5554915420452p-3f",
        "0x1.5555555555555p-3f",
        "tests/test_math.py",
    ),
    Mutation(
        "what is below the smallest normal number is 0",
        "csrc/kernels/apply_wide.h",
        "    g = v(keep)(v(nlt)(e, row->floor), g);\n",
        "",
        "tests/test_accuracy.py -k flush",
    ),
    Mutation(
        "a new maximum in a later block costs no accuracy",
        "csrc/kernels/sums.h",
        "sums->sum_exp = sum != 0 ? sum * f : 0;",
        "sums->sum_exp = sum != 0 ? (double)(float)(sum * f) : 0;",
        "tests/test_accuracy.py -k 'loss_and_gradient and edges and float64'",
    ),
    Mutation(
        "sums of losses are exact to an ulp",
        "csrc/kernels/elementwise.h",
        "s[1] = f64_add(s[1], f64_keep(f64_eq(error, error), error));",
        "(void)error;",
        "tests/test_accuracy.py -k reductions",
    ),
    Mutation(
        "the gradient has the slope of the cap",
        "csrc/kernels/math.h",
        "slope[j] = v(fnma)(tanh, tanh, one);",
        "slope[j] = one;",
        "tests/test_gradient.py",
    ),
    Mutation(
        "the Hessian has the curvature of the cap",
        "csrc/kernels/transform.h",
        "v(mul)(v(mul)(p->cap_curvature, z[i]), d)",
        "v(mul)(v(mul)(zero, z[i]), d)",
        "tests/test_hessian.py -k test_option",
    ),
    Mutation(
        "the Hessian has the slope of the cap, squared",
        "csrc/kernels/transform.h",
        "v(fma)(v(mul)(h[i], d), d, v(mul)(g[i], curvature))",
        "v(fma)(h[i], d, v(mul)(g[i], curvature))",
        "tests/test_hessian.py -k test_option",
    ),
    Mutation(
        "an infinite logit has no curvature under a cap",
        "csrc/kernels/transform.h",
        "v(keep)(v(ne)(d, zero), v(mul)(v(mul)(p->cap_curvature, z[i]), d))",
        "v(mul)(v(mul)(p->cap_curvature, z[i]), d)",
        "tests/test_semantics.py",
    ),
    Mutation(
        "what is below the smallest normal number is 0, under a cap too",
        "csrc/kernels/transform.h",
        "g[i] = flushed(v(select)(flat, zero, v(mul)(g[i], d)));",
        "g[i] = v(select)(flat, zero, v(mul)(g[i], d));",
        "tests/test_accuracy.py -k flush",
    ),
    Mutation(
        "half types are rounded to even",
        "csrc/simd/scalar.h",
        "(u + 0x7fff + (u >> 16 & 1)) >> 16",
        "(u + 0x8000) >> 16",
        "tests/test_half.py -k every_pattern",
    ),
    Mutation(
        "class probabilities beside half logits are of the compute type",
        "csrc/kernels/gather.h",
        "return plan->stream == XENT_SOFT ? own_storage : storage_of(plan->dtype);",
        "return storage_of(plan->dtype);",
        "tests/test_half.py -k every_option",
    ),
    Mutation(
        "narrow rows of half types are converted where they lie side by side, too",
        "csrc/kernels/gather.h",
        "if (whole && stored == own_storage && n % LANES == 0",
        "if (whole && n % LANES == 0",
        "tests/test_half.py -k every_pattern",
    ),
    # Bits.
    Mutation(
        "classes are summed in one order: by neighbours",
        "csrc/simd/scalar.h",
        "s[i] = s[2 * i] + s[2 * i + 1];",
        "s[i] = s[i] + s[i + width];",
        "tests/test_bits.py -k checked_in",
    ),
    Mutation(
        "classes are summed in one order: in blocks",
        "csrc/kernels/kernel.h",
        "XENT_BLOCK = 1024,",
        "XENT_BLOCK = 2048,",
        "tests/test_bits.py -k checked_in",
    ),
    Mutation(
        "classes are summed in one order: columns as rows",
        "csrc/kernels/reduce_tile.h",
        "add_lanes(lanes, used, abreast, 0, &sums,",
        "add_lanes(lanes, (used + 1) % (64 / abreast), abreast, 0, &sums,",
        "tests/test_layout.py -k test_class_axis",
    ),
    Mutation(
        "runs of columns that share tiles are told apart",
        "csrc/kernels/rows_tile.h",
        "rows->short_run - (rows->passed + r + i) % rows->short_run",
        "rows->short_run - (r + i) % rows->short_run",
        "tests/test_layout.py -k short_runs",
    ),
    Mutation(
        "runs of columns join only where all that has no classes does",
        "csrc/call/rows.c",
        "if (!has_classes(k) && a->steps[k][last - 1] != a->steps[k][last] * run)",
        "if (k == LOSS && a->steps[k][last - 1] != a->steps[k][last] * run)",
        "tests/test_layout.py -k short_runs",
    ),
    Mutation(
        "the Hessian of a tile is that of its logits",
        "csrc/kernels/rows_tile.h",
        "c->rows->stages == XENT_ALL_STAGES && !c->rows->hess;",
        "c->rows->stages == XENT_ALL_STAGES;",
        "tests/test_hessian.py",
    ),
    Mutation(
        "the gradient at the target has the slope of the cap, in tiles too",
        "csrc/kernels/rows_tile.h",
        "&s->own[t], of->target_grad, of->least);",
        "&s->own[t], capped ? v(div)(of->target_grad, s->target_slope[t]) : of->target_grad, of->least);",
        "tests/test_options.py -k softcap",
    ),
    Mutation(
        "the gradient has the slope of the cap, in wide rows too",
        "csrc/kernels/apply_wide.h",
        "return from->converts || is_capped(from->plan);",
        "return from->converts;",
        "tests/test_options.py -k softcap",
    ),
    Mutation(
        "a row of NaN that does not count has a gradient of 0, under a cap too",
        "csrc/kernels/rows_tile.h",
        "            w->x[i] = v(keep)(counts, w->x[i]);\n",
        "",
        "tests/test_semantics.py",
    ),
    Mutation(
        "and a Hessian of 0",
        "csrc/kernels/rows_tile.h",
        "                w->hess[i] = v(keep)(counts, w->hess[i]);\n",
        "                ;\n",
        "tests/test_semantics.py",
    ),
    Mutation(
        "a maximum that was found ahead is that of the block it is used for",
        "csrc/kernels/reduce_wide.h",
        "known->at == b.z ? known->max",
        "known->at ? known->max",
        "tests/test_semantics.py -k ignored",
    ),
    Mutation(
        "threads do not share the sums of their rows",
        "csrc/call/rows.c",
        "(xent_sums *)((char *)w->workspaces[worker] + kernel_bytes(w))",
        "(xent_sums *)((char *)w->workspaces[0] + kernel_bytes(w))",
        "tests/test_threads.py -k very_long",
    ),
    Mutation(
        "nor their workspaces",
        "csrc/call/rows.c",
        "rows.workspace = w->workspaces[worker];",
        "rows.workspace = w->workspaces[0];",
        "tests/test_threads.py",
    ),
    Mutation(
        "the target of a long row is in one of the pieces that threads share",
        "csrc/call/rows.c",
        "    plan.class_offset += begin;\n",
        "",
        "tests/test_threads.py -k very_long",
    ),
    Mutation(
        "pieces of elements are whole blocks, however many threads",
        "csrc/call/elementwise.c",
        "storage_bytes(call) + compute_bytes(call), XENT_SUM_BLOCK);",
        "storage_bytes(call) + compute_bytes(call), XENT_PIECE);",
        "tests/test_elementwise.py -k bits",
    ),
    Mutation(
        "every instruction set gives the bits of scalar.h",
        "csrc/simd/avx2.h",
        "XENT_VECTOR(f32, float, __m256, 16, ps, epi32, epi32, 23, 0x3f800000 - 0x3f3504f3,",
        "XENT_VECTOR(f32, float, __m256, 16, ps, epi32, epi32, 23, 0x3f800000 - 0x3f350000,",
        "tests/test_bits.py -k checked_in",
        isa="avx2",
    ),
    # Memory.
    Mutation(
        "a cache line that ends in a row that does not count is written",
        "csrc/kernels/stream.h",
        "    if (skipped) {\n        flush_partial(s);\n",
        "    if (skipped) {\n        ;\n",
        "tests/test_layout.py -k outgrow",
    ),
    Mutation(
        "the end of the last row that shares a head is written",
        "csrc/kernels/rows_wide.h",
        "    flush_partial(out);\n",
        "",
        "tests/test_layout.py -k outgrow",
    ),
    Mutation(
        "the end of the last row that shares a head is written, of the Hessian too",
        "csrc/kernels/rows_wide.h",
        "        flush_partial(hess);\n",
        "        ;\n",
        "tests/test_layout.py -k outgrow",
    ),
    Mutation(
        "of elements that are streamed, those before the first whole cache line are written",
        "csrc/kernels/stream.h",
        "    memcpy(s->to, s->from, (size_t)s->first);\n",
        "",
        "tests/test_elementwise.py -k outgrow",
    ),
    Mutation(
        "outputs may not overlap inputs",
        "src/xent/_arguments.pyx",
        "and overlap(out, source):",
        "and out is source:",
        "tests/test_aliasing.py",
    ),
    Mutation(
        "only exactly in place is in place",
        "src/xent/_arguments.pyx",
        " or cnp.PyArray_DIM(a, d) > 1 and cnp.PyArray_STRIDE(a, d) != cnp.PyArray_STRIDE(b, d)):",
        " ):",
        "tests/test_aliasing.py",
    ),
    Mutation(
        "buffers that cannot be written to are refused",
        "src/xent/_arguments.pyx",
        "if not cnp.PyArray_ISWRITEABLE(found):",
        "if value is None:",
        "tests/test_bad_input.py",
    ),
    Mutation(
        "nothing beyond a row is read",
        "csrc/kernels/gather.h",
        "static inline int lanes_left(int64_t left) { return left >= LANES ? LANES : left <= 0 ? 0 : (int)left; }",
        "static inline int lanes_left(int64_t left) { return left <= 0 ? 0 : LANES; }",
        "tests/test_layout.py -k nothing_beyond",
    ),
    Mutation(
        "nor beyond an array whose rows are read in place, four classes at once",
        "csrc/kernels/gather.h",
        "n % LANES == 0 && (left - n) * classes >= 3)",
        "n % LANES == 0)",
        "tests/test_layout.py -k nothing_beyond",
    ),
    Mutation(
        "nothing around a gradient of half type is written",
        "csrc/kernels/storage.h",
        "        h(store_first)(to + i * h(bytes), lanes_left(end - i), v(load_first)",
        "        h(store)(to + i * h(bytes), v(load_first)",
        "tests/test_layout.py -k nothing_around",
    ),
    Mutation(
        "copies are made a block at a time",
        "src/xent/_blocks.py",
        "max(1, BLOCK_BYTES // row_bytes)",
        "max(1, 1 << 60)",
        "tests/test_memory.py -k conversion",
    ),
    Mutation(
        "sums say nothing of a stream that is not there",
        "csrc/kernels/run.h",
        "if (c->plan->stream != XENT_TEACHER)",
        "if (c->plan->stream == XENT_NO_STREAM)",
        "tests/test_native.py -k kernels_are_right",
    ),
    Mutation(
        "the slope of a shared row's probability is kept",
        "csrc/kernels/run.h",
        " || c->plan->transform == XENT_LOG_PROBS",
        "",
        "tests/test_probabilities.py -k share",
    ),
    Mutation(
        "a mixture of two that nearly agree keeps its digits",
        "csrc/kernels/divergence.h",
        "near = v(lt)(v(set)((real)-0.5), we)",
        "near = v(lt)(v(set)((real)1), we)",
        "tests/test_divergences.py -k digits",
    ),
    Mutation(
        "beta is looked at whatever the divergence",
        "src/xent/information.py",
        "if not plain or type(beta) is not float or not 0 < beta < 1:",
        "if not plain:",
        "tests/test_bad_input.py -k beta",
    ),
    # Regions.
    Mutation(
        "ignored positions are in no sum of a region",
        "csrc/kernels/regions.h",
        "if (lane >= n || (r->has_ignore && *target == r->ignore)) {\n            *target = -1;",
        "if (lane >= n || (r->has_ignore && *target == r->ignore)) {\n            *target = -1, counts[lane] = lane < n;",
        "tests/test_regions.py -k ignored",
    ),
    Mutation(
        "a bad target of a region is found before anything is written",
        "csrc/call/regions.c",
        "status = XENT_BAD_TARGET;",
        "call->bad_position = -1;",
        "tests/test_regions.py -k bad_target",
    ),
    Mutation(
        "and the first of them is named",
        "csrc/call/regions.c",
        "(first < 0 || position < first)",
        "(first < 0 || position > first)",
        "tests/test_regions.py -k bad_target",
    ),
    Mutation(
        "sums of regions do not depend on who computed which piece",
        "csrc/call/regions.c",
        "w->sums + i * 3 * call->classes : NULL",
        "w->sums + (i - begin) * 3 * call->classes : NULL",
        "tests/test_regions.py -k threads",
    ),
    Mutation(
        "gradients of regions are taken relative to the most probable class",
        "csrc/kernels/regions.h",
        "top = v(select)(v(eq)(x[k], largest), slope, top);",
        "(void)largest;",
        "tests/test_regions.py -k confident",
    ),
    Mutation(
        "sums of regions in float64 are compensated",
        "csrc/kernels/regions.h",
        "if (sizeof(real) == 8)",
        "if (sizeof(real) == 9)",
        "tests/test_regions.py -k compensated",
    ),
    Mutation(
        "a class of weight 0 does not count in a region's loss, even if it is NaN",
        "src/xent/_head.pyx",
        """            if weight == 0:
                continue
""",
        "",
        "tests/test_regions.py -k weight_zero",
    ),
    Mutation(
        "positions at other than constant steps are copied",
        "src/xent/_regions.py",
        "elif a.strides[d] != step * count:",
        "elif a.strides[d] == 0:",
        "tests/test_regions.py -k layout",
    ),
    Mutation(
        "a batch is one value",
        "src/xent/_regions.py",
        "        sums = total(sums, 0)[None]\n",
        "        pass\n",
        "tests/test_regions.py -k batch",
    ),
    # The process: forks, threads, floating-point state, signals.
    Mutation(
        "a child of fork has a team of its own",
        "csrc/call/team.c",
        "xent_at_fork(before_fork, in_parent, in_child)",
        "xent_at_fork(before_fork, in_parent, in_parent)",
        "tests/test_team.py -k fork_with",
    ),
    Mutation(
        "a fork finds every piece done or not begun",
        "csrc/call/team.c",
        "while (team.inside)",
        "while (0)",
        "tests/test_team.py -k fork_during",
    ),
    Mutation(
        "a thread that cannot be started is done without",
        "csrc/call/platform.c",
        "    pthread_attr_destroy(&attributes);\n    return n;",
        "    pthread_attr_destroy(&attributes);\n    return threads;",
        "tests/test_process.py -k cannot_be_started",
    ),
    Mutation(
        "nor one for whose large stack there is no room",
        "csrc/call/team.c",
        "wanted - workers, xent_stack_bytes()",
        "wanted - workers, 0",
        "tests/test_team.py -k large_stacks",
    ),
    Mutation(
        "a call waits for its own workers alone",
        "csrc/call/team.c",
        "finished = !job->inside;",
        "finished = !team.inside;",
        "tests/test_team.py -k do_not_come",
    ),
    Mutation(
        "no worker touches a call that has ended",
        "csrc/call/team.c",
        "finished = !job->inside;",
        "finished = 1;",
        "tests/test_team.py -k while_waiting",
    ),
    Mutation(
        "the workers of a call have numbers of their own",
        "csrc/call/team.c",
        "worker = ++job->joined;",
        "worker = 1 + 0 * ++job->joined;",
        "tests/test_team.py -k do_not_come",
    ),
    Mutation(
        "no more workers than were asked for",
        "csrc/call/team.c",
        "job->joined == job->seats",
        "job->joined == MOST_THREADS",
        "tests/test_team.py -k seats",
    ),
    Mutation(
        "a call inside a parallel region is serial",
        "csrc/call/team.c",
        "if (omp_in_parallel())",
        "if (0)",
        "tests/test_team.py -k inside_a_region",
    ),
    Mutation(
        "idle workers sleep",
        "csrc/call/team.c",
        "xent_wait(&team.work, &team.lock);",
        "unlock(), lock();",
        "tests/test_team.py -k idle",
    ),
    Mutation(
        "workers run on every CPU of the process, whoever calls first",
        "csrc/call/team.c",
        "        xent_use_all_cpus();\n",
        "        ;\n",
        "tests/test_team.py -k a_bound_caller",
    ),
    Mutation(
        "a call needs no more than a stack of 64 KiB",
        "csrc/call/call.c",
        "    char few[1024 * 8];\n",
        "    char few[1024 * 64];\n",
        "tests/test_stack.py -k cached",
    ),
    Mutation(
        "nothing stays allocated",
        "csrc/call/call.c",
        "    if (losses != few)\n        free(losses);\n",
        "",
        "tests/test_memory.py -k failed_allocations",
    ),
    Mutation(
        "nor a workspace that no call finds again",
        "csrc/call/rows.c",
        "    xent_return_workspaces(workspaces, d.threads);\n",
        "",
        "tests/test_memory.py -k failed_allocations",
    ),
    Mutation(
        "a workspace that is too small is not used",
        "csrc/call/workspace.c",
        "if (kept && kept->bytes >= bytes)",
        "if (kept)",
        "tests/test_memory.py -k failed_allocations",
    ),
    Mutation(
        "a call without a workspace says so",
        "csrc/call/rows.c",
        "    if (d.threads == 0)\n        return XENT_NO_MEMORY;\n",
        "    if (d.threads == 0)\n        return XENT_OK;\n",
        "tests/test_memory.py -k failed_allocations",
    ),
    Mutation(
        "what is written after the outputs asks for no memory",
        "csrc/call/elementwise.c",
        "in_parallel(call, &d, sum_blocks, &w)",
        "run_blocks(call, &w)",
        "tests/test_memory.py -k failed_allocations",
    ),
    Mutation(
        "a thread without a workspace is done without",
        "csrc/call/workspace.c",
        "    return taken;\n",
        "    return taken == count ? taken : 0;\n",
        "tests/test_process.py -k cannot_be_started",
    ),
    Mutation(
        "the floating-point state of others reaches no result",
        "csrc/call/environment.h",
        "        _mm_setcsr(DEFAULT);\n",
        "        ;\n",
        "tests/test_process.py -k flushing",
        machine="x86_64",
    ),
    Mutation(
        "the floating-point state of the process is given back",
        "csrc/call/environment.h",
        "        _mm_setcsr(before.vectors);\n",
        "        ;\n",
        "tests/test_process.py -k flushing",
        machine="x86_64",
    ),
    Mutation(
        "the rounding mode of others reaches no mean",
        "csrc/call/call.c",
        "    const fp_state before = fp_enter();\n",
        "    const fp_state before = _mm_getcsr();\n",
        "tests/test_machines.py -k disturbed",
        machine="x86_64",
    ),
    Mutation(
        "Ctrl-C interrupts a call",
        "csrc/call/parallel.c",
        "if (p->poll(p->data))",
        "if (p->poll(p->data) && 0)",
        "tests/test_process.py -k interrupting",
    ),
    Mutation(
        "and while it waits for the last pieces",
        "csrc/call/parallel.c",
        "&& !xent_team_finish(&job, POLL_SECONDS))\n            ask(&p, &job, before);",
        "&& !xent_team_finish(&job, POLL_SECONDS))\n            ;",
        "tests/test_team.py -k while_waiting",
    ),
    Mutation(
        "XENT_NUM_THREADS comes before OMP_NUM_THREADS",
        "csrc/call/threads.c",
        'n = variable("XENT_NUM_THREADS");',
        'n = variable("OMP_NUM_THREADS");',
        "tests/test_process.py -k number_of_threads",
    ),
    # Memory of results.
    Mutation(
        "a result has the memory of one that was dropped",
        "src/xent/pool.c",
        "    if (best >= 0)\n        data = remove_idle(best);",
        "    if (0)\n        data = remove_idle(best);",
        "tests/test_pool.py -k has_the_memory",
    ),
    Mutation(
        "memory in use is nobody else's",
        "src/xent/pool.c",
        "data = remove_idle(best);",
        "data = pool.idle[best].data;",
        "tests/test_pool.py -k test_memory",
    ),
    Mutation(
        "no result has memory that is much too large",
        "src/xent/pool.c",
        "size >= bytes && size <= most &&",
        "size >= bytes &&",
        "tests/test_pool.py -k best_fit",
    ),
    Mutation(
        "nor memory that is too small",
        "src/xent/pool.c",
        "size >= bytes && size <= most &&",
        "size <= most &&",
        "tests/test_pool.py -k best_fit",
    ),
    Mutation(
        "no more memory is idle than the limit allows",
        "src/xent/pool.c",
        "pool.count == MOST_IDLE || read_size(&pool.idle_bytes) > limit - bytes",
        "pool.count == MOST_IDLE",
        "tests/test_pool.py -k limit_allows",
    ),
    Mutation(
        "idle memory is given back when the limit sinks",
        "src/xent/pool.c",
        "    while (read_size(&pool.idle_bytes) > bytes)\n",
        "    while (0)\n",
        "tests/test_pool.py -k limit_allows",
    ),
    Mutation(
        "idle memory is given back after some calls",
        "src/xent/pool.c",
        "(read_size(&pool.idle_bytes) > KEPT || now",
        "(now",
        "tests/test_pool.py -k after_some_calls",
    ),
    Mutation(
        "and the last of it after some time",
        "src/xent/pool.c",
        "now - pool.idle[0].since >= SECONDS)",
        "0)",
        "tests/test_pool.py -k for_a_while",
    ),
    Mutation(
        "memory that is used at each call is kept",
        "src/xent/pool.c",
        "pool.looks - pool.idle[0].look >= LOOKS &&",
        "",
        "tests/test_pool.py -k each_call_uses",
    ),
    Mutation(
        "the system may have idle memory at any time",
        "src/xent/pool.c",
        "bytes >= HUGE_PAGE && huge_pages()",
        "0",
        "tests/test_pool.py -k run_short",
    ),
    Mutation(
        "memory is given back where more is needed",
        "src/xent/pool.c",
        "if (!data && xent_pool_release())",
        "if (0)",
        "tests/test_pool.py -k would_not_fit",
    ),
    Mutation(
        "and where the core needs it",
        "src/xent/_request.pyx",
        "if status == XENT_NO_MEMORY and _pool.release():",
        "if False:",
        "tests/test_pool.py -k what_a_call_needs",
    ),
    Mutation(
        "every call counts for the age of idle memory",
        "src/xent/_request.pyx",
        "        _pool.tick()\n",
        "",
        "tests/test_pool.py -k calls_give",
    ),
    Mutation(
        "results come from the pool",
        "src/xent/_request.pyx",
        "    return _pool.empty(cnp.PyArray_NDIM(a), cnp.PyArray_DIMS(a), dtype)\n",
        "    return cnp.PyArray_EMPTY(cnp.PyArray_NDIM(a), cnp.PyArray_DIMS(a), (<cnp.dtype>dtype).num, 0)\n",
        "tests/test_pool.py -k every_kind",
    ),
    Mutation(
        "threads of no interpreter share idle memory",
        "src/xent/pool.c",
        "    pthread_once(&once, survive_forks);\n    pthread_mutex_lock(&pool.lock);\n",
        "    pthread_once(&once, survive_forks);\n",
        "tests/test_pool.py -k no_interpreter",
    ),
    Mutation(
        "a child of fork waits for no lock of the parent's threads",
        "src/xent/pool.c",
        "    pool.lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;\n",
        "",
        "tests/test_pool.py -k no_interpreter",
    ),
    Mutation(
        "a child of fork does not copy idle memory",
        "src/xent/pool.c",
        "pthread_atfork(before_fork, in_parent, in_child)",
        "pthread_atfork(before_fork, in_parent, in_parent)",
        "tests/test_pool.py -k children",
    ),
    Mutation(
        "a resized result keeps its elements",
        "src/xent/pool.c",
        "memcpy(moved, data, bytes < before ? bytes : before);",
        ";",
        "tests/test_pool.py -k resized",
    ),
    Mutation(
        "the pool knows the memory of a control group",
        "src/xent/pool.c",
        "if (allowed > 0 && allowed < bytes)",
        "if (0)",
        "tests/test_pool.py -k an_eighth",
    ),
    Mutation(
        "NumPy's own memory handler is in force again",
        "src/xent/_pool.pyx",
        "    finally:\n        PyDataMem_SetHandler(before)\n",
        "    finally:\n        pass\n",
        "tests/test_pool.py -k in_force",
    ),
    Mutation(
        "a memory handler of the user's own is respected",
        "src/xent/_pool.pyx",
        "if <PyObject *>before != PyDataMem_DefaultHandler:",
        "if before is None:",
        "tests/test_pool.py -k users_own",
    ),
    Mutation(
        "nonsense in XENT_POOL_BYTES is an error",
        "src/xent/_pool.pyx",
        "if not (text.isascii() and text.isdigit()):",
        "if not text.isdigit():",
        "tests/test_pool.py -k nonsense",
    ),
    Mutation(
        "XENT_POOL_BYTES=0 turns the pool off",
        "src/xent/_pool.pyx",
        "or xent_pool_limit() == 0:",
        "or False:",
        "tests/test_pool.py -k is_off",
    ),
    # The stages, over shards of the classes.
    Mutation(
        "a merge of shards that leave a gap is refused",
        "csrc/call/merge.c",
        "return s->class_begin == before->class_end &&",
        "return s->class_begin >= before->class_end &&",
        "tests/test_stages.py",
    ),
    Mutation(
        "a merge of shards that overlap is refused",
        "csrc/call/merge.c",
        "return s->class_begin == before->class_end &&",
        "return s->class_begin <= before->class_end &&",
        "tests/test_stages.py",
    ),
    Mutation(
        "a merge of shards of two calls is refused",
        "csrc/call/merge.c",
        "s->temperature == before->temperature;",
        "s->temperature > 0;",
        "tests/test_stages.py",
    ),
    Mutation(
        "a merge of shards with two targets is refused",
        "csrc/call/merge.c",
        "good = targets <= 1 && follows",
        "good = follows",
        "tests/test_stages.py",
    ),
    Mutation(
        "a target's logit is that of the shard which has it",
        "csrc/call/merge.c",
        "target = part->has_target ? part : target;",
        "target = parts;",
        "tests/test_stages.py",
    ),
    Mutation(
        "sums that go on are those of one array",
        "csrc/kernels/reduce_wide.h",
        "if (!plan->continues)",
        "if (1)",
        "tests/test_stages.py",
    ),
    Mutation(
        "a target's logit stays where the sums go on",
        "csrc/kernels/run.h",
        "if (before.has_target)",
        "if (0)",
        "tests/test_stages.py",
    ),
    Mutation(
        "sums of another call do not go on",
        "csrc/call/validate.c",
        "               s->temperature == call->temperature;",
        "               s->temperature > 0;",
        "tests/test_stages.py",
    ),
    Mutation(
        "the gradient of a shard is written behind the logits that are yet to be read",
        "src/xent/_shards.py",
        "step = max(rows, len(memory) // classes)",
        "step = rows",
        "tests/test_linear.py -k shards",
    ),
    Mutation(
        "a loss beyond the range of its sums is computed anew of a divided row, too",
        "src/xent/_shards.py",
        "            self.correct(losses)",
        "            pass",
        "tests/test_linear.py -k shards",
    ),
    Mutation(
        "merged sums are relative to one maximum",
        "csrc/kernels/sums.h",
        "else if (part.max < row.max)",
        "else if (0)",
        "tests/test_stages.py",
    ),
    Mutation(
        "the mean over shards divides by the weight of the target's class, whichever shard has it",
        "csrc/call/rows.c",
        "? sums_of(rows, i)->target_weight\n",
        "? 1\n",
        "tests/test_stages.py",
    ),
    Mutation(
        "a row whose target lies in another shard counts in this one",
        "csrc/kernels/targets.h",
        "(uint64_t)here < (uint64_t)plan->classes ? here : ELSEWHERE;",
        "(uint64_t)here < (uint64_t)plan->classes ? here : NO_TARGET;",
        "tests/test_stages.py",
    ),
    Mutation(
        "a shard has the numbers of its own classes",
        "csrc/kernels/targets.h",
        "const int64_t here = y - plan->class_offset;",
        "const int64_t here = y;",
        "tests/test_stages.py",
    ),
    Mutation(
        "a head of some of the classes is refused",
        "csrc/call/validate.c",
        "s->num_classes != s->class_end ||",
        "0 ||",
        "tests/test_stages.py",
    ),
    Mutation(
        "a head of another vocabulary is refused",
        "csrc/call/validate.c",
        "s->class_end != num_classes(call) ||",
        "0 ||",
        "tests/test_stages.py",
    ),
    Mutation(
        "a head of another operation's sums is refused",
        "csrc/call/validate.c",
        "s->operation != (int64_t)call->operation ||",
        "0 ||",
        "tests/test_stages.py",
    ),
    Mutation(
        "targets are validated before sums are written",
        "csrc/call/call.c",
        "const xent_status status = xent_prepare_rows(&targets);",
        "const xent_status status = XENT_OK;",
        "tests/test_stages.py",
    ),
    # The C interface.
    Mutation(
        "a field of C that an operation does not take is refused",
        "csrc/call/validate.c",
        "!((IS_TAKEN) && within(call->NAME, LEAST, MOST))",
        "!within(call->NAME, LEAST, MOST)",
        "tests/test_headers.py -k every_field_is_checked",
    ),
    Mutation(
        "NaN is no number for an option",
        "csrc/call/validate.c",
        "return x >= least && x <= most;",
        "return !(x < least) && !(x > most);",
        "tests/test_headers.py -k every_field_is_checked",
    ),
    Mutation(
        "sizes of C are multiplied without overflow",
        "csrc/call/validate.c",
        "if (call->shape[d] < 0 || (call->shape[d] && __builtin_mul_overflow(n, call->shape[d], &n)))",
        "if (call->shape[d] < 0)",
        "tests/test_headers.py -k every_field_is_checked",
    ),
    Mutation(
        "outputs of C whose elements share memory are refused",
        "csrc/call/validate.c",
        "if (e->steps[i] < reach)",
        "if (0 && e->steps[i] < reach)",
        "tests/test_headers.py -k every_field_is_checked",
    ),
    Mutation(
        "an output of C that begins where another array does is refused",
        "csrc/call/validate.c",
        "f != output && f->array->data == output->array->data &&",
        "0 && f->array->data == output->array->data &&",
        "tests/test_headers.py -k every_field_is_checked",
    ),
    Mutation(
        "an array of C that a step needs is asked for",
        "csrc/call/validate.c",
        "return bad || is_empty ? bad : missing(call, steps, traits);",
        "return bad;",
        "tests/test_headers.py -k every_field_is_checked",
    ),
    Mutation(
        "a C call of another size is told from one of ours",
        "csrc/call/call.c",
        "from->size > sizeof *to ||",
        "0 ||",
        "tests/test_headers.py -k every_field_is_checked",
    ),
    Mutation(
        "an older C caller gets the defaults for fields it does not know",
        "csrc/call/call.c",
        "    memcpy(to, from, from->size);\n",
        "    memcpy(to, from, sizeof *to);\n",
        "tests/test_headers.py -k every_field_is_checked",
    ),
    Mutation(
        "what is wrong with the environment is told each thread by itself",
        "csrc/call/dispatch.c",
        "static _Thread_local char message[512];",
        "static char message[512];",
        "tests/test_headers.py -k text_of_the_environment",
    ),
    Mutation(
        "an extension module of another C API is not imported",
        "csrc/xent_capi.h",
        "if (api->api_version != XENT_API_VERSION || api->size < sizeof *api) {",
        "if (api->size < sizeof *api) {",
        "tests/test_headers.py -k of_another_version",
    ),
    Mutation(
        "the number of threads is that of the process's CPUs, whoever calls first",
        "csrc/call/platform.c",
        "if (sched_getaffinity(getpid(), size, first) == 0)",
        "if (sched_getaffinity(getpid(), size, first) == 1)",
        "tests/test_team.py -k a_bound_caller",
    ),
    Mutation(
        "and wherever OpenMP has bound the first thread",
        "csrc/call/threads.c",
        "if (omp_get_proc_bind() != omp_proc_bind_false)",
        "if (0)",
        "tests/test_team.py -k bound_threads",
    ),
    Mutation(
        "nor is it that of the CPUs of a bound thread which loads OpenMP",
        "csrc/call/threads.c",
        "m = n == omp_get_num_procs() && n < cpus_of_process ? n : 0;",
        "m = 0;",
        "tests/test_team.py -k that_imports",
    ),
    Mutation(
        "it keeps to OpenMP's limit",
        "csrc/call/threads.c",
        "return limit > 0 && limit < n ? limit : n;",
        "return n;",
        "tests/test_team.py -k limits",
    ),
    # Arguments, validated.
    Mutation(
        "masked arrays are refused",
        "src/xent/_arguments.pyx",
        "    if isinstance(value, np.ma.MaskedArray):\n",
        "    if isinstance(value, bytes):\n",
        "tests/test_bad_input.py",
    ),
    Mutation(
        "longdouble is refused",
        "src/xent/_arguments.pyx",
        "or number <= cnp.NPY_DOUBLE",
        "or number <= cnp.NPY_LONGDOUBLE",
        "tests/test_bad_input.py",
    ),
    Mutation(
        "flags are validated before anything is written",
        "src/xent/_functions.pyx",
        '    return_sign = arguments.flag(return_sign, "return_sign")\n',
        "",
        "tests/test_bad_input.py -k return_sign",
    ),
    Mutation(
        "class indices are no floating-point numbers",
        "src/xent/_arguments.pyx",
        "        if is_index(found):\n",
        '        if is_index(found) or found.dtype.kind == "f":\n',
        "tests/test_bad_input.py",
    ),
    Mutation(
        "functions that take class indices alone refuse class probabilities",
        "src/xent/_functions.pyx",
        "    set_targets(request, targets, function)\n",
        "    set_targets(request, targets, None)\n",
        "tests/test_bad_input.py -k targets",
    ),
    Mutation(
        "an axis that does not exist is refused",
        "src/xent/_arguments.pyx",
        "if not -ndim <= position < ndim:",
        "if not -ndim <= position <= ndim:",
        "tests/test_bad_input.py -k axis",
    ),
    Mutation(
        "label_smoothing is at most 1",
        "src/xent/_arguments.pyx",
        'number(value, "label_smoothing", 0.0, 1.0,',
        'number(value, "label_smoothing", 0.0, 2.0,',
        "tests/test_bad_input.py",
    ),
    Mutation(
        '"batchmean" is a reduction of kl_div alone',
        "src/xent/_arguments.pyx",
        "if code is None or <int>code == XENT_BATCH_MEAN and not batchmean:",
        "if code is None:",
        "tests/test_arguments.py tests/test_elementwise.py -k 'reduction or message'",
    ),
    Mutation(
        "ignore_index is compared by value, not by bits",
        "src/xent/_arguments.pyx",
        "None if overflow or value < 0 else found\n",
        "None if overflow else found\n",
        "tests/test_semantics.py -k by_value",
    ),
    Mutation(
        "ignore_index may be any number of the targets' dtype",
        "src/xent/_arguments.pyx",
        "found - (1 << 64) if found < 1 << 64 else None",
        "None",
        "tests/test_arguments.py -k ignore_index",
    ),
    Mutation(
        "class indices may be of any byte order",
        "src/xent/_arguments.pyx",
        'return found if cnp.PyArray_ISNOTSWAPPED(found) else found.astype(found.dtype.newbyteorder("=")), None',
        "return found, None",
        "tests/test_layout.py -k targets_and_weights",
    ),
    Mutation(
        "class weights may be strided",
        "src/xent/_arguments.pyx",
        "    return found if cnp.PyArray_ISCARRAY_RO(found) else np.require(",
        "    return found if True else np.require(",
        "tests/test_layout.py -k targets_and_weights",
    ),
    Mutation(
        "a sample weight that is no number for each row is refused",
        "src/xent/_arguments.pyx",
        "        if more < 0 or cnp.PyArray_DIM(found, d) != 1 and",
        "        if more < 0 and",
        "tests/test_bad_input.py -k sample_weight",
    ),
    Mutation(
        "numbers too large for the dtype are infinite, without a warning",
        "src/xent/_arguments.pyx",
        '    with np.errstate(all="ignore"):\n        return a.astype(dtype)',
        "    return a.astype(dtype)",
        "tests/test_arguments.py -k weights",
    ),
    Mutation(
        "integers are computed in float64",
        "src/xent/_arguments.pyx",
        "        return DOUBLE\n",
        "        return SINGLE\n",
        "tests/test_options.py -k integer_and_bool",
    ),
    Mutation(
        "an array reaches to both sides of its first element",
        "src/xent/_arguments.pyx",
        "            first[0] += reach\n",
        "            end[0] -= reach\n",
        "tests/test_arguments.py -k overlap",
    ),
    Mutation(
        "outputs may not overlap the upstream gradient",
        "src/xent/_request.pyx",
        "            and arguments.apart(a, self.grad_output)\n",
        "",
        "tests/test_aliasing.py -k no_other_argument",
    ),
    Mutation(
        "nor each other",
        "src/xent/_request.pyx",
        "and arguments.apart(out, self.out) and",
        "and",
        "tests/test_aliasing.py -k no_other_argument",
    ),
    Mutation(
        "buffers for what is not requested are refused",
        "src/xent/_arguments.pyx",
        "if not with_grad and (grad_output is not None or grad_out is not None):",
        "if not with_grad and grad_output is not None:",
        "tests/test_bad_input.py -k not_returned",
    ),
    # The request: where everything lies, and what is returned.
    Mutation(
        "the class axis is any of the logits' axes",
        "src/xent/_request.pyx",
        "cnp.PyArray_STRIDE(a, d + (d >= self.axis))",
        "cnp.PyArray_STRIDE(a, d)",
        "tests/test_layout.py -k test_class_axis",
    ),
    Mutation(
        "a weight is repeated along the axes on which it has one element",
        "src/xent/_request.pyx",
        "if d >= missing and cnp.PyArray_DIM(a, d - missing) == self.layout[d]:",
        "if d >= missing:",
        "tests/test_options.py -k broadcasts",
    ),
    Mutation(
        "one logit that stands for all classes is none of many",
        "src/xent/_request.pyx",
        "self.repeated |= step == 0 and self.call.classes > 1",
        "self.repeated |= 0",
        "tests/test_layout.py -k broadcast_logits",
    ),
    Mutation(
        "arrays of other dtypes are converted",
        "src/xent/_request.pyx",
        "has_dtype(self.logits, storage)\n",
        "True\n",
        "tests/test_memory.py -k conversion",
    ),
    Mutation(
        "as are those of a layout that no kernel reads",
        "src/xent/_request.pyx",
        "        if status == XENT_BAD_LAYOUT:\n            from",
        "        if 0:\n            from",
        "tests/test_layout.py -k layout_of_logits",
    ),
    Mutation(
        "of many numbers not all are converted at once",
        "src/xent/_request.pyx",
        "        if size > FEW_ELEMENTS if self.axis < 0 else size * 8 > FEW_BYTES:\n",
        "        if 0:\n",
        "tests/test_memory.py -k conversion",
    ),
    Mutation(
        "few class probabilities beside half logits keep their digits",
        "src/xent/_request.pyx",
        "arguments.cast(self.soft, self.soft_dtype)\n        if self.grad_output",
        "arguments.cast(self.soft, self.precision.storage)\n        if self.grad_output",
        "tests/test_half.py -k every_option",
    ),
    Mutation(
        "a reduced loss is in the caller's array, too",
        "src/xent/_request.pyx",
        "                out[...] = loss\n",
        "                pass\n",
        "tests/test_options.py",
    ),
    Mutation(
        "the loss of one row is a scalar",
        "src/xent/_request.pyx",
        "            loss = self.loss[()]\n",
        "            loss = self.loss\n",
        "tests/test_semantics.py tests/test_options.py",
    ),
    Mutation(
        "Ctrl-C raises KeyboardInterrupt",
        "src/xent/_request.pyx",
        "    return PyErr_CheckSignals()\n",
        "    return 0\n",
        "tests/test_process.py -k interrupting",
    ),
    Mutation(
        "num_threads holds for calls",
        "src/xent/_request.pyx",
        "self.call.threads = get_value(context_threads)",
        "self.call.threads = 0",
        "tests/test_process.py tests/test_threads.py -k threads",
    ),
    Mutation(
        "an error names the probability that is none",
        "src/xent/_request.pyx",
        "            return self.call.bad_row\n",
        "            return 0\n",
        "tests/test_bad_input.py tests/test_probabilities.py",
    ),
    Mutation(
        "probabilities are checked before anything is written",
        "src/xent/_functions.pyx",
        "    request.validate_probabilities()\n",
        "",
        "tests/test_probabilities.py",
    ),
    Mutation(
        "perplexity is the exponential of the mean",
        "src/xent/_functions.pyx",
        "term = (term * rest >> 96) // i",
        "term = (term * rest >> 96) // (i + 1)",
        "tests/test_regressions.py -k perplexity",
    ),
    Mutation(
        "the log-probability of a certain token is never -0.0",
        "src/xent/_functions.pyx",
        "else loss.dtype.type(0) - loss\n",
        "else -loss\n",
        "tests/test_semantics.py",
    ),
    Mutation(
        "log-sum-exp keeps axes of one element",
        "src/xent/_functions.pyx",
        "lse = lse.reshape(shape) if keepdims else lse\n",
        "lse = lse\n",
        "tests/test_scipy.py -k keepdims",
    ),
    # What is converted block by block.
    Mutation(
        "class indices of all blocks are validated before anything is written",
        "src/xent/_blocks.py",
        "        self.request.refuse(whole.prepare())\n",
        "        whole.prepare()\n",
        "tests/test_semantics.py tests/test_layout.py -k target",
    ),
    Mutation(
        "elements converted in blocks are summed as in one call",
        "src/xent/_request.pyx",
        "ELEMENTS, BLOCK_BYTES = 1 << 16, 1 << 20",
        "ELEMENTS, BLOCK_BYTES = (1 << 16) - 1000, 1 << 20",
        "tests/test_elementwise.py -k changes_no_bit",
    ),
    Mutation(
        "numbers are rounded to bfloat16 once",
        "src/xent/_blocks.py",
        "            bits |= single != values\n",
        "",
        "tests/test_half.py tests/test_linear.py -k 'bfloat16 or round'",
    ),
    Mutation(
        "and to float16",
        "src/xent/_blocks.py",
        "        small = np.where(np.abs(values) < 2.0**-14, (values + room) - room, values)\n",
        "        small = values + 0 * room\n",
        "tests/test_linear.py",
    ),
    Mutation(
        "the factors of log-sum-exp have signs",
        "src/xent/_weighted.py",
        "np.where(decided, np.sign(total), np.sign(s))",
        "np.where(decided, np.sign(total), np.abs(np.sign(s)))",
        "tests/test_scipy.py -k sign",
    ),
    Mutation(
        "there is one version",
        "src/xent/__init__.py",
        '__version__ = "0.1.0"',
        '__version__ = "0.1.1"',
        "tests/test_package.py -k one_version",
    ),
    Mutation(
        "a number of threads holds in its own context alone",
        "src/xent/runtime.py",
        "        _core.context_threads.reset(token)\n",
        "        pass\n",
        "tests/test_threads.py -k context_manager",
    ),
    Mutation(
        "an installation without its static library says how to get it",
        "src/xent/runtime.py",
        "    if not os.path.isdir(path):\n",
        "    if False:\n",
        "tests/test_package.py -k library_that_is_not_installed",
    ),
    # What class indices read of (log-)probabilities.
    Mutation(
        "the probabilities of targets are validated",
        "csrc/kernels/targets.h",
        "if (indices->probabilities && *outside < 0) {",
        "if (indices->probabilities && *outside < -1) {",
        "tests/test_probabilities.py -k what_is_not_a_probability",
    ),
    Mutation(
        "rows that do not count need no probability",
        "csrc/kernels/targets.h",
        "number_at(indices->weight + (at + i) * indices->weight_step) == 0))",
        "number_at(indices->weight + (at + i) * indices->weight_step) < 0))",
        "tests/test_probabilities.py -k rows_that_do_not_count",
    ),
    Mutation(
        "the first of the probabilities outside [0, 1] is named",
        "csrc/call/rows.c",
        "while (row < so_far &&",
        "while (row != so_far &&",
        "tests/test_probabilities.py -k first_of_many",
    ),
    Mutation(
        "the gradient of a target alone is zeros elsewhere, whatever memory held",
        "csrc/kernels/picked.h",
        "        v(store)(s->window + k, v(set)(0));\n",
        "",
        "tests/test_probabilities.py -k number_alone",
    ),
    Mutation(
        "rows of a gradient that gaps separate leave the gaps alone",
        "csrc/kernels/picked.h",
        "const int whole = writes(c) && !columns && rows->out_step == plan->classes * c->stored->bytes;",
        "const int whole = writes(c) && !columns;",
        "tests/test_probabilities.py -k number_alone",
    ),
    # Inputs that once failed.
    Mutation(
        "factors of any size weigh exponentials",
        "src/xent/_weighted.py",
        "ordinary = np.all(np.abs(exponent) <= ORDINARY, axis=-1, keepdims=True)",
        "ordinary = np.all(np.abs(exponent) <= 5000, axis=-1, keepdims=True)",
        "tests/test_regressions.py -k factors_of_any_size",
    ),
    Mutation(
        "the gradient of a bias is summed in float64",
        "src/xent/_linear.py",
        "gradient.sum(axis=0, dtype=np.float64)",
        "gradient.sum(axis=0)",
        "tests/test_linear.py -k summed_in_double",
    ),
    Mutation(
        "uint16 is read as numbers by SciPy's functions alone",
        "src/xent/_arguments.pyx",
        "if number == cnp.NPY_UINT16 and not integers:",
        "if False:",
        "tests/test_half.py -k without_a_word",
    ),
    Mutation(
        "targets of elementwise losses do not make the logits grow",
        "src/xent/_arguments.pyx",
        "        if more < 0 or cnp.PyArray_DIM(found, d) != 1 and",
        "        if more >= 0 and cnp.PyArray_DIM(found, d) != 1 and",
        "tests/test_regressions.py -k broadcast_on_purpose",
    ),
    Mutation(
        "perplexity and log-probabilities take no class probabilities",
        "src/xent/_functions.pyx",
        "    set_targets(request, targets, function)\n",
        "    set_targets(request, targets, None)\n",
        "tests/test_regressions.py -k integers_in_the_shape",
    ),
    # Numbers that leave the range on the way, what is validated, keywords of others, the environment.
    Mutation(
        "a mean does not depend on the size of its weights",
        "csrc/call/call.h",
        "return ldexp(1, exponent < -most ? most : exponent > most ? -most : -exponent);",
        "return 1;",
        "tests/test_regressions.py -k small_common_factor",
    ),
    Mutation(
        "float64 weights of a mean may be beyond float32",
        "src/xent/_arguments.pyx",
        "    return weights if exponent == 0 else np.asarray(np.ldexp(weights, -exponent))\n",
        "    return weights\n",
        "tests/test_regressions.py -k beyond_the_range_of_the_logits",
    ),
    Mutation(
        "the z-loss loses the factor that class weights lose",
        "src/xent/_functions.pyx",
        "cdef double z = ldexp(request.call.z_loss, -arguments.common_exponent(class_weight, request.precision.compute))",
        "cdef double z = request.call.z_loss",
        "tests/test_regressions.py -k beyond_the_range_of_the_logits",
    ),
    Mutation(
        "costs beyond the range are a share of it",
        "csrc/kernels/rare_rows.h",
        "moment += distance != 0 ? a * distance : 0;",
        "moment += (double)(real)(a * distance / COST_SCALE);",
        "tests/test_regressions.py -k lowest_numbers",
    ),
    Mutation(
        "a gap that overflows is divided before",
        "csrc/kernels/head.h",
        "gap = v(select)(v(but)(masked, v(lt)(z, lowest)), apart, gap);",
        "",
        "tests/test_regressions.py -k temperature_brings_back",
    ),
    Mutation(
        "1 - p is clipped as p is",
        "csrc/kernels/transform.h",
        "return (clipped_lanes){v(lt)(p, eps), v(lt)(v(sub)(v(set)(1), p), eps)};",
        "return (clipped_lanes){v(lt)(p, eps), v(lt)(v(sub)(v(set)(1), eps), p)};",
        "tests/test_regressions.py -k clipping_near_one",
    ),
    Mutation(
        "the logarithm of 1 - eps is not that of a rounded number",
        "csrc/kernels/transform.h",
        "v(log1p)(v(set)((real)-plan->clip))",
        "v(log)(v(set)((real)(1 - plan->clip)))",
        "tests/test_regressions.py -k clipping_near_one",
    ),
    Mutation(
        "divergences that cancel are summed from positive terms",
        "csrc/kernels/rare_rows.h",
        "static const double NEAR = 0.0625;",
        "static const double NEAR = 0;",
        "tests/test_regressions.py -k nearly_agree",
    ),
    Mutation(
        "two log-sum-exps that are rounded apart are told so",
        "csrc/kernels/rare_rows.h",
        "const double rounding = y * y * (0.5 - y / temperature / 3);",
        "const double rounding = 0;",
        "tests/test_regressions.py -k nearly_agree",
    ),
    Mutation(
        "a rounding as large as the divergence is found anew",
        "csrc/kernels/rare_rows.h",
        "if (rounding > sum / 16 && pass < MOST_PASSES) {",
        "if (rounding > sum && pass < MOST_PASSES) {",
        "tests/test_regressions.py -k nearly_agree",
    ),
    Mutation(
        "differences of logits lose no digit",
        "csrc/kernels/rare_rows.h",
        "return (exact_difference){high, v(sub)(v(sub)(a, v(sub)(high, back)), v(add)(b, back))};",
        "return (exact_difference){high, v(set)(0)};",
        "tests/test_regressions.py -k nearly_agree",
    ),
    Mutation(
        "tiles add near terms in the order of wide rows",
        "csrc/kernels/rare_rows.h",
        "&sums[k % 64], &moments[k % 64]",
        "&sums[k % 32], &moments[k % 32]",
        "tests/test_regressions.py -k nearly_agree",
    ),
    Mutation(
        "an infinite pos_weight has a kernel of its own",
        "csrc/call/elementwise.c",
        "if (call->pos_weight.data && has_infinity(call, &call->pos_weight))",
        "if (0)",
        "tests/test_regressions.py -k infinite_weights",
    ),
    Mutation(
        "an infinite class weight of what costs anything is infinite",
        "csrc/kernels/rare_rows.h",
        "isinf(mass) ? mass : mass * log_sum",
        "mass * log_sum",
        "tests/test_regressions.py -k infinite_weights",
    ),
    Mutation(
        "the slope of a cap far beyond it is 0",
        "csrc/kernels/math.h",
        "v(keep)(v(both)(finite, v(nlt)(t, lowest)), slope)",
        "v(keep)(finite, slope)",
        "tests/test_regressions.py -k slope_of_a_cap",
    ),
    Mutation(
        "a gradient that overflows is 0 where the cap is flat",
        "csrc/kernels/transform.h",
        "v(select)(flat, zero, v(mul)(g[i], d))",
        "v(mul)(g[i], d)",
        "tests/test_regressions.py -k slope_of_a_cap",
    ),
    Mutation(
        "probabilities of hard targets may be subnormal",
        "csrc/kernels/elementwise.h",
        "if (v(any)(v(lt)(either, v(set)(c(TINY))))) {",
        "if (0) {",
        "tests/test_elementwise.py -k hard_neighbours",
    ),
    Mutation(
        "targets of logits between 0 and 1 are not taken for one of the two",
        "csrc/kernels/elementwise.h",
        "soft |= is_soft(in[j].t, v(eq)(in[j].t, v(set)(1)));",
        "soft |= 0;",
        "tests/test_elementwise.py -k 'test_option and soft'",
    ),
    Mutation(
        "targets outside [0, 1] are refused",
        "csrc/kernels/elementwise.h",
        "v(add)(outside(in.x, v(set)((real)plan->most)), outside(in.t, one))",
        "outside(in.x, v(set)((real)plan->most))",
        "tests/test_elementwise.py -k out_of_range",
    ),
    Mutation(
        "elements that count for nothing are not validated",
        "csrc/call/elementwise.c",
        "[WEIGHT] = &call->sample_weight};\n    view views[WEIGHT + 1];",
        "[WEIGHT] = &call->grad_output};\n    view views[WEIGHT + 1];",
        "tests/test_elementwise.py -k out_of_range",
    ),
    Mutation(
        "a class's bias joins its target's logit",
        "csrc/kernels/gather.h",
        "return plan->class_bias ? z + *bias_from(plan, k) : z;",
        "return z;",
        "tests/test_stage_losses.py -k class_bias",
    ),
    Mutation(
        "the bias of a block is that of its classes",
        "csrc/kernels/reduce_wide.h",
        "add_bias(from->z_buffer, at, bias_from(from->plan, k), n)",
        "add_bias(from->z_buffer, at, bias_from(from->plan, 0), n)",
        "tests/test_stage_losses.py -k class_bias",
    ),
    Mutation(
        "threads that share a row have their classes' bias",
        "csrc/call/rows.c",
        "plan.class_bias = (const char *)plan.class_bias + begin * compute_bytes(call);",
        "plan.class_bias = (const char *)plan.class_bias;",
        "tests/test_stage_losses.py -k long_row",
    ),
    Mutation(
        "sums of another second stream are refused",
        "csrc/call/validate.c",
        "if (needed != XENT_NO_STREAM && s->stream != needed &&",
        "if (needed != XENT_NO_STREAM && s->stream > needed &&",
        "tests/test_stages.py -k whole_calls",
    ),
    Mutation(
        "the gradient is written after the logits have been read",
        "src/xent/_composed.py",
        "by_temperature = loss.temperature_grad() if with_temperature else None",
        "loss.grad(grad_out); by_temperature = loss.temperature_grad()",
        "tests/test_stage_losses.py -k in_place",
    ),
    Mutation(
        "what is clipped may be a rounding above 1",
        "csrc/call/call.h",
        "return call->eps > 0 ? 1 + unit[call->dtype] : 1;",
        "return 1;",
        "tests/test_elementwise.py -k out_of_range",
    ),
    Mutation(
        "rows that count for nothing are not validated",
        "src/xent/_request.pyx",
        "        request.sample_weight = np.broadcast_to(weight, request.shape)\n",
        "",
        "tests/test_regressions.py -k not_judged",
    ),
    Mutation(
        "OMP_THREAD_LIMIT is said",
        "src/xent/_core.pyx",
        "return min(<int>get_value(context_threads) or xent_get_num_threads(), xent_thread_limit())",
        "return <int>get_value(context_threads) or xent_get_num_threads()",
        "tests/test_regressions.py -k limits_of_openmp",
    ),
    Mutation(
        "names of instruction sets may be in any case",
        "csrc/call/dispatch.c",
        "!strcasecmp(isas",
        "!strcmp(isas",
        "tests/test_regressions.py -k instruction_set",
    ),
    Mutation(
        "a name of another library is told ours",
        "src/xent/_keywords.py",
        '    "dim": ("axis",),\n',
        "",
        "tests/test_regressions.py -k keywords_of_other",
    ),
    Mutation(
        "a full disk is one line",
        "src/xent/cli/__init__.py",
        '            print(f"python -m xent: {error}", file=sys.stderr)\n',
        "            raise\n",
        "tests/test_regressions.py -k disk_that_is_full",
    ),
    # Stages, score, and what is composed of them.
    Mutation(
        "the first of the largest logits is found",
        "csrc/kernels/run.h",
        "    to->argmax = argmax_of(c, r, row, &before);\n",
        "    to->argmax = row->argmax;\n",
        "tests/test_stage_losses.py -k test_values",
    ),
    Mutation(
        "merged sums have the argmax of the shard with the largest logit",
        "csrc/call/merge.c",
        "return a->max >= b->max ? a : b;",
        "return a->max >= b->max ? b : a;",
        "tests/test_stage_losses.py -k test_shards",
    ),
    Mutation(
        "coefficients are those of logits before the temperature",
        "csrc/kernels/targets.h",
        "(coef_at(rows, r, second) / plan->temperature)",
        "(coef_at(rows, r, second))",
        "tests/test_stage_losses.py -k any_coefficients",
    ),
    Mutation(
        "the gradient of a log-sum-exp reaches the target",
        "csrc/kernels/head.h",
        "            to->target_grad = v(fma)(terms->grad_lse, probability, to->target_grad);\n",
        "            to->target_grad = v(fma)(zero, probability, to->target_grad);\n",
        "tests/test_stage_losses.py -k any_coefficients",
    ),
    Mutation(
        "the gradient of an entropy at the target is relative to its mean",
        "csrc/kernels/head.h",
        "v(fma)(terms->grad_smooth, v(add)(gap, to->center), v(sub)(sum_coef, of_target))",
        "v(fma)(terms->grad_smooth, gap, v(sub)(sum_coef, of_target))",
        "tests/test_stage_losses.py -k any_coefficients",
    ),
    Mutation(
        "squares of exponentials move to a new maximum as squares",
        "csrc/kernels/sums.h",
        "sums->sum_a *= f * f;",
        "sums->sum_a *= f;",
        "tests/test_stage_losses.py -k test_score",
    ),
    Mutation(
        "of equal logits the first classes are the top ones",
        "csrc/kernels/run.h",
        "if (top->count < top->most || x > top->logit[top->most - 1])",
        "if (top->count < top->most || x >= top->logit[top->most - 1])",
        "tests/test_stage_losses.py -k test_score",
    ),
    Mutation(
        "the rank counts logits that are larger, not as large",
        "csrc/kernels/run.h",
        "rank += count_larger(z, n, v(set)(target_logit));",
        "rank += count_larger(z, n, v(set)(target_logit - (real)0.01));",
        "tests/test_stage_losses.py -k test_score",
    ),
    Mutation(
        "a teacher's gradient is relative to its mean",
        "csrc/kernels/apply_wide.h",
        "v(sub)(apart, row->center)",
        "apart",
        "tests/test_divergences.py -k both_gradients",
    ),
    Mutation(
        "shards without a gap or an overlap are merged alone",
        "src/xent/stages.py",
        "        if apart.any():\n",
        "        if False:\n",
        "tests/test_stage_losses.py -k do_not_fit",
    ),
    Mutation(
        "rows that do not count have no probability",
        "src/xent/stages.py",
        'np.where(sums["counts"], head.prob(sums["target_logit"]), real(np.nan))',
        'head.prob(sums["target_logit"])',
        "tests/test_stage_losses.py -k test_values",
    ),
    Mutation(
        "the temperature's derivative holds the entropy's",
        "src/xent/_composed.py",
        "            if variance is not None:\n",
        "            if False:\n",
        "tests/test_stage_losses.py -k test_composed",
    ),
    Mutation(
        "both parts of the mixture are weighted",
        "csrc/kernels/divergence.h",
        "v(set)(k == 0 ? 1 - call->beta : call->beta)",
        "v(set)(0.5)",
        "tests/test_divergences.py -k both_gradients",
    ),
    Mutation(
        "what the mixture has masked has no gradient",
        "csrc/kernels/divergence.h",
        "v(keep)(v(ne)(d, least), v(fma)(rise, scale, scale))",
        "v(fma)(rise, scale, scale)",
        "tests/test_divergences.py -k masked_and_spoilt",
    ),
    Mutation(
        "rows of the mixture that do not count have no gradient, whatever is in them",
        "csrc/kernels/divergence.h",
        "v(both)(v(ne)(of->scale, v(set)(0)), v(nlt)(v(abs)(g), of->least))",
        "v(nlt)(v(abs)(g), of->least)",
        "tests/test_divergences.py -k masked_and_spoilt",
    ),
    Mutation(
        "rows of the mixture that do not count have no loss, whatever is in them",
        "src/xent/_divergence.py",
        "rows = np.where(weight == 0, 0.0, weight * rows)",
        "rows = weight * rows",
        "tests/test_divergences.py -k masked_and_spoilt",
    ),
    Mutation(
        "a row of the mixture without a class is NaN",
        "csrc/kernels/divergence.h",
        "of->log_sum = v(select)(masked, v(set)((real)NAN), log_sum)",
        "of->log_sum = log_sum",
        "tests/test_divergences.py -k masked_and_spoilt",
    ),
    Mutation(
        "behind its last class a row of the mixture has no probability",
        "csrc/kernels/divergence.h",
        "*last, v(set)(-(real)INFINITY));",
        "*last, v(set)(0));",
        "tests/test_divergences.py -k against_its_formula",
    ),
    Mutation(
        "the exponentials of the mixture's rows move to a new maximum",
        "csrc/kernels/divergence.h",
        "v(mul)(v(add)(of->sum_exp, of->max_count), shrunk)",
        "v(add)(of->sum_exp, of->max_count)",
        "tests/test_divergences.py -k against_its_formula",
    ),
    Mutation(
        "the placement of the mixture's rows follows from their classes alone",
        "csrc/kernels/divergence.h",
        ".narrow = call->classes <= XENT_NARROW_DIVERGENCE",
        ".narrow = call->classes <= XENT_NARROW_DIVERGENCE && end - begin > 1",
        "tests/test_divergences.py -k bits_of_the_mixture",
    ),
    # What is in the binaries.
    Mutation(
        "the extension exports its module alone",
        "CMakeLists.txt",
        "set(CMAKE_C_VISIBILITY_PRESET hidden)\n",
        "",
        "tests/test_binary.py -k exports_its_module",
    ),
    Mutation(
        "symbols are bound at loading, so that their table is read-only",
        "CMakeLists.txt",
        "ITEMS relro now noexecstack",
        "ITEMS relro noexecstack",
        "tests/test_binary.py -k loader_protects",
    ),
    # The asymmetric loss.
    Mutation(
        "the asymmetric loss takes the margin off the probability",
        "csrc/kernels/elementwise.h",
        "m = v(sub)(s.up, v(set)(clip));",
        "m = v(sub)(s.up, v(set)(clip / 2));",
        "tests/test_elementwise.py -k asymmetric",
    ),
    Mutation(
        "the logarithm of the asymmetric loss does not cancel where 1 - m is small",
        "csrc/kernels/elementwise.h",
        "const mask small = v(lt)(m, half);",
        "const mask small = v(lt)(m, one);",
        "tests/test_elementwise.py -k 'asymmetric_about_the_margin'",
    ),
    Mutation(
        "the asymmetric loss has no gradient up to the margin",
        "csrc/kernels/elementwise.h",
        "slope = v(select)(v(eq)(m, zero), zero, slope);",
        "",
        "tests/test_elementwise.py -k asymmetric_gradient_is_0",
    ),
    Mutation(
        "the gradient of the asymmetric loss has the slope of its weights",
        "csrc/kernels/elementwise.h",
        "v(fma)(v(set)(gamma), times(s.up, s.softplus_m), s.down)",
        "s.down",
        "tests/test_elementwise.py -k 'asymmetric and quotients'",
    ),
    Mutation(
        "each side of the asymmetric loss has its own exponent",
        "csrc/call/elementwise.c",
        ".gamma_neg = call->negative_strength,",
        ".gamma_neg = call->strength,",
        "tests/test_elementwise.py -k 'test_option and asymmetric'",
    ),
    Mutation(
        "an asymmetric loss without a margin is computed from softplus",
        "csrc/kernels/elementwise.h",
        "cost = s.softplus, log_m",
        "cost = s.softplus_m, log_m",
        "tests/test_elementwise.py -k asymmetric_without_exponents",
    ),
    Mutation(
        "a margin of 1 is refused",
        "src/xent/_arguments.pyx",
        'return number(value, "clip", 0.0, BELOW_ONE,',
        'return number(value, "clip", 0.0, 1.0,',
        "tests/test_elementwise.py -k asymmetric_arguments",
    ),
    # Sigmoids and labels.
    Mutation(
        "the sigmoid is the gradient for the target 0",
        "src/xent/_functions.pyx",
        "request.soft = np.full((), logarithm is not None, precision.compute)",
        "request.soft = np.full((), 1, precision.compute)",
        "tests/test_activations.py -k test_ends",
    ),
    Mutation(
        "the logarithm of the sigmoid has its sign",
        "src/xent/_functions.pyx",
        "request.pos_weight = np.full((), -1, precision.compute)",
        "request.pos_weight = np.full((), 1, precision.compute)",
        "tests/test_activations.py -k test_ends",
    ),
    Mutation(
        "the logarithm of the sigmoid may replace its argument",
        "src/xent/_functions.pyx",
        "elif has_dtype(result, precision.compute) and arguments.apart(x, result):",
        "elif has_dtype(result, precision.compute):",
        "tests/test_activations.py -k test_in_place",
    ),
    Mutation(
        "sigmoids refuse a buffer that overlaps their argument",
        "src/xent/_functions.pyx",
        """        out = arguments.buffer(out, "out", shape_of(x), dtype)
        arguments.check_no_overlap({"out": out}, {"x": x}, ("out", "x"))
    result = empty_like(x, dtype)""",
        """        out = arguments.buffer(out, "out", shape_of(x), dtype)
    result = empty_like(x, dtype)""",
        "tests/test_activations.py -k test_refused",
    ),
    Mutation(
        "an index that is no class has no one-hot vector",
        "src/xent/labels.py",
        "bad = (indices < 0) | (indices >= classes)",
        "bad = indices >= classes",
        "tests/test_labels.py -k no_class",
    ),
    Mutation(
        "one-hot vectors lie along the axis that is named",
        "src/xent/labels.py",
        "shape.insert(axis, classes)",
        "shape.append(classes)",
        "tests/test_labels.py -k test_one_hot",
    ),
    Mutation(
        "smoothing shares among all classes",
        "src/xent/labels.py",
        "smoothed += e / max(found.shape[-1], 1)",
        "smoothed += e",
        "tests/test_labels.py -k of_probabilities",
    ),
    Mutation(
        "smoothed indices keep their share of the rest",
        "src/xent/labels.py",
        "np.float64, low, (1 - e) + low)",
        "np.float64, low, 1 - e)",
        "tests/test_labels.py -k of_indices",
    ),
    # Products of half types.
    Mutation(
        "a product is added to the blocks of the inner axis before it",
        "csrc/call/product.c",
        "p.add = add || k > 0;",
        "p.add = add;",
        "tests/test_product.py",
    ),
    Mutation(
        "nothing past the last column is written",
        "csrc/kernels/product.h",
        "const int n = lanes_left(columns - w * LANES);",
        "const int n = LANES;",
        "tests/test_product.py",
    ),
    Mutation(
        "numbers that an instruction for pairs takes for zeros are left to fused multiply-adds",
        "csrc/kernels/pairs.h",
        "return !outside;",
        "return 1;",
        "tests/test_product.py -k pairs_of",
    ),
    Mutation(
        "of a pair the earlier number is added first",
        "csrc/kernels/pairs.h",
        "pairs[i] = pairs[i] << 16 | pairs[i] >> 16;",
        "pairs[i] = pairs[i];",
        "tests/test_product.py -k pairs_of",
    ),
    Mutation(
        "half types are multiplied by the same library with the gradient and without it",
        "src/xent/_layer.pyx",
        "        and not matrix(weight.values, dtype)\n",
        "        and not matrix(weight.values, dtype) and weight.grad is not None\n",
        "tests/test_linear.py -k halves",
    ),
    # Loss scaling.
    Mutation(
        "every gradient is looked at for infinities",
        "csrc/kernels/unscale.h",
        "        all = unscale_vectors(at + i, 1,",
        "        (void)unscale_vectors(at + i, 1,",
        "tests/test_scaling.py -k every_element",
    ),
    Mutation(
        "a piece that is not finite is remembered",
        "csrc/call/scaling.c",
        "*all_finite = !atomic_load_explicit(&u.not_finite, memory_order_relaxed);",
        "*all_finite = 1;",
        "tests/test_scaling.py -k every_element",
    ),
    Mutation(
        "quotients of half types are rounded once",
        "csrc/call/scaling.c",
        "const double mantissa = frexp(scale, &exponent), seven_bits = ldexp(mantissa, 7);",
        "const double mantissa = frexp(scale, &exponent), seven_bits = ldexp(mantissa, 53);",
        "tests/test_scaling.py -k 'once'",
    ),
    Mutation(
        "of a quotient on its way to fewer bits the last is odd",
        "csrc/call/scaling.c",
        "return f32_from_bits((fabs((double)nearest) > fabs(x) ? bits - 1 : bits) | 1);",
        "return nearest;",
        "tests/test_scaling.py -k 'halves or half'",
    ),
    Mutation(
        "what cannot be divided in place leaves the other gradients as they are",
        "src/xent/scaling.py",
        """        arrays = [_gradient(grad, f"grads[{i}]") for i, grad in enumerate(grads)]
        _refuse_overlap(arrays)
""",
        """        arrays = [_gradient(grad, f"grads[{i}]") for i, grad in enumerate(grads)]
""",
        "tests/test_scaling.py -k refused_arrays",
    ),
    Mutation(
        "several calls of unscale before an update count together",
        "src/xent/scaling.py",
        "self._finite = finite and self._finite is not False",
        "self._finite = finite",
        "tests/test_scaling.py -k schedule",
    ),
    Mutation(
        "a step that is not finite begins the count anew",
        "src/xent/scaling.py",
        "factor, self._growth_tracker = self._backoff_factor, 0",
        "factor = self._backoff_factor",
        "tests/test_scaling.py -k schedule",
    ),
    Mutation(
        "the scale stays within float32",
        "src/xent/scaling.py",
        "        if LEAST <= scale <= MOST:\n",
        "        if scale:\n",
        "tests/test_scaling.py -k within_float32",
    ),
    Mutation(
        "an update needs gradients",
        "src/xent/scaling.py",
        "            self.scale = scale\n        self._finite = None\n",
        "            self.scale = scale\n",
        "tests/test_scaling.py -k update_needs",
    ),
    Mutation(
        "a state that is refused changes nothing",
        "src/xent/scaling.py",
        """        scale = _scale(given["scale"], "scale")
""",
        """        scale = self.scale = _scale(given["scale"], "scale")
""",
        "tests/test_scaling.py -k refused_state",
    ),
    # Metrics.
    Mutation(
        "probabilities are clipped by the epsilon of their dtype",
        "src/xent/_predictions.py",
        "eps = float(np.finfo(self.proba.dtype).eps)",
        "eps = float(np.finfo(np.float64).eps)",
        "tests/test_metrics.py -k dtypes_of_probabilities",
    ),
    Mutation(
        "labels that do not occur have columns",
        "src/xent/_predictions.py",
        "np.searchsorted(classes, found)[column]",
        "column",
        "tests/test_metrics.py -k declared_labels",
    ),
    Mutation(
        "labels are told apart beyond the range of a signed integer",
        "src/xent/_predictions.py",
        "offset = (y.astype(np.uint64) - low if lowest else y).astype(np.intp, copy=False)",
        "offset = (y - y.dtype.type(lowest)).astype(np.intp, copy=False)",
        "tests/test_metrics.py -k 'log_loss_is_theirs and int8'",
    ),
    Mutation(
        "sums of probabilities may be off by the square root of the epsilon",
        "src/xent/_predictions.py",
        "tolerance = 1e-8 + float(np.sqrt(np.finfo(proba.dtype).eps))",
        "tolerance = 1e-8 + float(np.sqrt(np.finfo(np.float64).eps))",
        "tests/test_metrics.py -k sums_are_compared",
    ),
    Mutation(
        "of tied probabilities the last column comes first",
        "src/xent/_predictions.py",
        "before |= (p == own) & (np.arange(p.shape[1]) > column)",
        "before |= (p == own) & (np.arange(p.shape[1]) < column)",
        "tests/test_metrics.py -k top_k_accuracy_is_theirs",
    ),
    Mutation(
        "bins hold their upper edges",
        "src/xent/_calibration.py",
        "np.searchsorted(self.edges[1:-1], confidence)",
        "np.searchsorted(self.edges[1:-1], confidence, 'right')",
        "tests/test_metrics.py -k expected_calibration_error",
    ),
    Mutation(
        "the second derivative does not depend on a shared offset",
        "src/xent/_calibration.py",
        'z = logits - sums["max"].astype(logits.dtype)[..., None]',
        "z = logits",
        "tests/test_metrics.py -k shared_offset",
    ),
    Mutation(
        "a step of Newton's method stays in the interval that holds the minimum",
        "src/xent/_calibration.py",
        "new = float(np.clip(b + step, b / 8, b * 8))",
        "new = float(b + step)",
        "tests/test_metrics.py -k fit_temperature",
    ),
    Mutation(
        "losses are summed without rounding",
        "src/xent/_exact_sum.py",
        "for half, bits in ((high, 26), (low, 53)):",
        "for half, bits in ((high, 26),):",
        "tests/test_metrics.py -k exact_sums",
    ),
    Mutation(
        "squares are summed without rounding",
        "src/xent/accumulators.py",
        "for part in (a * a, 2 * a * b, b * b):",
        "for part in (a * a, 2 * a * b):",
        "tests/test_metrics.py -k 'definition or spread'",
    ),
    Mutation(
        "what an accumulator refuses leaves it as it was",
        "src/xent/accumulators.py",
        'more = 0 if bytes is None else size(bytes, "bytes", 1)\n',
        'self._count += 1; more = 0 if bytes is None else size(bytes, "bytes", 1); self._count -= 1\n',
        "tests/test_metrics.py -k refuses",
    ),
    # Logits on disk.
    Mutation(
        "a bad target is named by its position in the whole array",
        "src/xent/cli/score/__init__.py",
        "np.unravel_index(start + bad, self.targets.shape)",
        "np.unravel_index(bad, self.targets.shape)",
        "tests/test_score_command.py -k named_by_its_position",
    ),
    Mutation(
        "files of a folder follow each other",
        "src/xent/cli/score/arrays.py",
        "room, position = room[count:], size",
        "room, position = room[count:], position",
        "tests/test_score_command.py -k folders_of_shards",
    ),
    Mutation(
        "the position of a row is that in its sequence",
        "src/xent/cli/score/evaluation.py",
        "(start + counts) % self.length,",
        "counts % self.length,",
        "tests/test_score_command.py -k position",
    ),
    Mutation(
        "files are read into the same blocks of memory again",
        "src/xent/cli/score/arrays.py",
        "rows_of_block(logits), max(total, 1)",
        "total + 1, max(total, 1)",
        "tests/test_score_command.py -k memory",
    ),
    # xent.dask.
    Mutation(
        "xent.dask names the position of a bad target in the whole array",
        "src/xent/dask/_tasks.py",
        "str(i + b)",
        "str(i)",
        "tests/test_dask.py -k test_bad_target",
    ),
    Mutation(
        "in xent.dask each chunk has the classes from its own first on",
        "src/xent/dask/_graph.py",
        "np.array([0, *accumulate(sizes)][:-1]",
        "np.array([0, *accumulate(sizes[:1] * len(sizes))][:-1]",
        "tests/test_dask.py -k test_cross_entropy",
    ),
    Mutation(
        "no task of xent.dask reads two chunks of logits",
        "src/xent/dask/_graph.py",
        "    return value\n\n\ndef placeholder",
        "    return value.rechunk({value.ndim - 1: -1})\n\n\ndef placeholder",
        "tests/test_dask.py -k test_no_task",
    ),
    Mutation(
        "a mean of xent.dask is rounded once, at the end",
        "src/xent/dask/_tasks.py",
        "    total.add(rows)\n    return total",
        "    total.add(rows.sum(dtype=float))\n    return total",
        "tests/test_dask.py -k test_sums_that_cancel",
    ),
    Mutation(
        "in xent.dask the gradient of a row of weight 0 is 0, whatever its logits are",
        "src/xent/dask/_tasks.py",
        "weight != 0,\n            reduction=",
        "weight == weight,\n            reduction=",
        "tests/test_dask.py -k test_mean_of_nothing",
    ),
    Mutation(
        "in xent.dask a row with +inf and NaN has no log-sum-exp",
        "src/xent/dask/_softmaxes.py",
        "np.isnan(z[infinite]).any(axis=-1)",
        "False",
        "tests/test_dask.py -k infinities",
    ),
    Mutation(
        "arguments of xent.dask are refused by the call, not by its tasks",
        "src/xent/dask/_loss.py",
        "arguments.label_smoothing(label_smoothing),",
        "label_smoothing,",
        "tests/test_dask.py -k test_bad_arguments",
    ),
    Mutation(
        "xent.dask.log_loss names the position of what is no probability in the whole array",
        "src/xent/dask/_log_loss.py",
        "str(int(i) + b)",
        "str(int(i))",
        "tests/test_dask.py -k test_log_loss_refuses",
    ),
    # xent.jax.
    Mutation(
        "in xent.jax each loss that vmap maps has a mean of its own",
        "src/xent/_ffi.c",
        "        return j->batch_ndim == 0;",
        "        return 1;",
        "tests/test_jax.py -k vmap_is_a_loop",
    ),
    Mutation(
        "in xent.jax class weights that vmap maps are those of their own rows",
        "src/xent/_ffi.c",
        "            if (j->arrays[i].role->axes == CLASSES && j->arrays[i].steps[d])\n                return 0;",
        "",
        "tests/test_jax.py -k vmap_is_a_loop",
    ),
    Mutation(
        "in xent.jax a bad target of a compiled program is named with its position and value",
        "src/xent/_ffi.c",
        'describe_place(j, "targets", row, -1, text);',
        'describe_place(j, "targets", 0, -1, text);',
        "tests/test_jax.py -k test_bad_target",
    ),
    Mutation(
        "in xent.jax the mean of one row that does not count is NaN under vmap, too",
        "src/xent/_ffi.c",
        "    j->ignored_are_nan = is_mean && j->call.has_ignore;",
        "",
        "tests/test_jax.py -k vmap_of_single_rows",
    ),
    Mutation(
        "the handler of xent.jax refuses buffers of another dtype",
        "src/xent/_ffi.c",
        "    return dtype == (int)number_type(j);",
        "    return 1;",
        "tests/test_jax.py -k refuses_dtypes",
    ),
    Mutation(
        "the handler of xent.jax refuses buffers of another shape",
        "src/xent/_ffi.c",
        "if (d == class_axis ? size != j->call.classes : size != 1 && size != j->shape[k])",
        "if (0)",
        "tests/test_jax.py -k test_handler_refuses",
    ),
    Mutation(
        "xent.jax refuses derivatives that it does not have",
        "src/xent/jax/_call.py",
        "        if primal.perturbed:",
        "        if False:",
        "tests/test_jax.py -k other_derivatives",
    ),
    Mutation(
        "xent.jax rounds the gradient of a half type once, after a loss scale",
        "src/xent/jax/_call.py",
        "        return self.reduced and dtype == compute_dtype(dtype)",
        "        return self.reduced",
        "tests/test_jax.py -k 'bits_are_those and float16'",
    ),
    Mutation(
        "in xent.jax the gradient takes the memory of donated logits",
        "src/xent/jax/_call.py",
        'input_output_aliases={0: results.index("out")} if in_place else None,',
        "",
        "tests/test_jax.py -k donated_logits",
    ),
    Mutation(
        "xent.jax validates class indices before JAX makes them smaller",
        "src/xent/jax/_functions.py",
        "            request.validate_targets()",
        "            pass",
        "tests/test_jax.py -k makes_them_smaller",
    ),
    Mutation(
        "in xent.jax a bad probability of a compiled program is named with its position",
        "src/xent/_ffi.c",
        "return (row / inner * j->call.classes + class) * inner + row % inner;",
        "return row * j->call.classes + class;",
        "tests/test_jax.py -k test_bad_probability",
    ),
    Mutation(
        "in xent.jax the probabilities of rows that do not count may be any numbers",
        "src/xent/_ffi.c",
        "if (row_counts(j, row_at(j, j->outside)) &&",
        "if (",
        "tests/test_jax.py -k test_bad_probability",
    ),
    Mutation(
        "xent.jax reads no placeholder for logits as probabilities",
        "src/xent/_request.pyx",
        "cdef Request part = self.part(self.classes_last(self.logits), self.index, unread=True)",
        "cdef Request part = self.part(self.classes_last(self.logits), self.index)",
        "tests/test_jax.py -k 'bits_are and eager and categorical'",
    ),
    Mutation(
        "without a foreign function interface a bad target is named by its position among all that vmap maps",
        "src/xent/jax/_host.py",
        "        self.validate(given, mapped)\n",
        "",
        "tests/test_jax_callback.py -k scan",
    ),
    Mutation(
        "without a foreign function interface the teacher's bfloat16 is read as its bits",
        "src/xent/jax/_host.py",
        ".view(request.soft_dtype)",
        "",
        "tests/test_jax_callback.py -k bits_are",
    ),
    Mutation(
        "xent.jax refuses arrays on other devices",
        "src/xent/jax/_functions.py",
        '{device.platform for device in value.devices()} - {"cpu"}',
        "set()",
        "tests/test_jax.py -k other_devices",
    ),
    Mutation(
        "an ignored class of several targets may be any class",
        "src/xent/_composed.py",
        '"ignore_index": ignore_index if target_probs is None else None,',
        '"ignore_index": ignore_index,',
        "tests/test_stage_losses.py -k ignored_class",
    ),
    Mutation(
        "what fails on one rank of an MPI program is raised on all",
        "src/xent/mpi/_ranks.py",
        "own[0] = self.error is not None",
        "own[0] = False",
        "tests/test_mpi.py -k injected",
    ),
    Mutation(
        "rows that differ between ranks are an error",
        "src/xent/mpi/_ranks.py",
        'if (every["arguments"] != every["arguments"][0]).any():',
        "if False:",
        "tests/test_mpi.py -k errors",
    ),
    Mutation(
        "bits do not depend on the number of ranks",
        "src/xent/mpi/_sums.py",
        "cuts = [begin, *range((begin // CHUNK + 1) * CHUNK, end, CHUNK), end]",
        "cuts = [begin, end]",
        "tests/test_mpi.py -k bits",
    ),
    Mutation(
        "digits of ranks are added up at their places",
        "src/xent/mpi/_digits.py",
        "lower = top - place",
        "lower = 0 * place",
        "tests/test_mpi.py -k bits",
    ),
    Mutation(
        "sums of ranks keep 65 bits",
        "src/xent/mpi/_digits.py",
        "BITS, PLACES = 32, 3",
        "BITS, PLACES = 32, 1",
        "tests/test_mpi.py -k options",
    ),
    Mutation(
        "a rank sends at most 80 bytes of each row",
        "src/xent/mpi/_digits.py",
        "for width in (5, 6, 7)",
        "for width in (7,)",
        "tests/test_mpi.py -k bytes",
    ),
    Mutation(
        "Ctrl-C on one rank of an MPI program is raised where others can be told",
        "src/xent/mpi/_ranks.py",
        "        if self.open:\n            self.before(*signal_and_frame)",
        "        if True:\n            self.before(*signal_and_frame)",
        "tests/test_mpi.py -k fail_at_any_step",
    ),
    Mutation(
        "labels are smoothed over the classes of all ranks",
        "src/xent/mpi/_shard.py",
        "self.shard, self.classes = place.arguments, place.num_classes",
        "self.shard = place.arguments",
        "tests/test_mpi.py -k options",
    ),
    Mutation(
        "the gradient of hidden states is the sum over all ranks",
        "src/xent/mpi/_linear.py",
        "self.ranks.comm.Iallreduce(MPI.IN_PLACE, products)",
        "self.ranks.comm.Ibarrier()",
        "tests/test_mpi.py -k linear",
    ),
    Mutation(
        "a mean over a grid divides by the rows of all ranks",
        "src/xent/mpi/_losses.py",
        "results.loss.divisor = divisor",
        "pass",
        "tests/test_mpi.py -k grids",
    ),
)


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def places(mutation: Mutation) -> int:
    """How often the text of a mutation occurs in its file; exactly once is right."""
    return text_of(ROOT / mutation.file).count(mutation.old)


class BuildError(Exception):
    """A build failed; the exception holds the output of the compiler."""


def run(*command: object) -> None:
    scripts = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [str(word) for word in command],
        env=os.environ | {"PATH": scripts},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BuildError(done.stdout + done.stderr)


class Workshop:
    """A copy of the source, built with the kernels of one instruction set, or with those of the installed library."""

    def __init__(self, folder: Path, kernels: str, builds: bool):
        self.tree, self.build, self.pristine = (folder / x for x in ("xent", "build", "pristine"))
        built = shutil.ignore_patterns(".*", "build", "dist", "__pycache__", "*.so")
        shutil.copytree(ROOT, self.tree, ignore=built)
        if not builds:
            for module in Path(_core.__file__).parent.glob("*.so"):
                shutil.copy2(module, self.tree / "src/xent")
            return
        # No bit depends on optimisation, which takes most of the time of a build.
        options = (
            "-DCMAKE_BUILD_TYPE=Debug",
            "-DCMAKE_C_FLAGS_DEBUG=-O1",
            "-DXENT_INSTALL_LIBRARY=ON",
        )
        made_of = f"-DXENT_ISAS={kernels}" if kernels else f"-DXENT_LIBRARY={LIBRARY}"
        python = f"-DPython_EXECUTABLE={sys.executable}"
        run("cmake", "-S", self.tree, "-B", self.build, "-G", "Ninja", python, *options, made_of)
        self.compile()
        shutil.copytree(self.build, self.pristine)

    def compile(self) -> None:
        """Bring the extension up to date with the source."""
        run("cmake", "--build", self.build)
        self.install()

    def install(self) -> None:
        """Put extension, headers and library where they are found."""
        run("cmake", "--install", self.build, "--prefix", self.tree / "src")

    @contextmanager
    def applied(self, mutation: Mutation) -> Iterator[None]:
        """Make the mutation, then undo it and restore what was built without it."""
        file = self.tree / mutation.file
        before, times = text_of(file), file.stat()
        file.write_text(before.replace(mutation.old, mutation.new), encoding="utf-8")
        try:
            yield
        finally:
            file.write_text(before, encoding="utf-8")
            os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
            if mutation.builds:
                shutil.rmtree(self.build)
                shutil.copytree(self.pristine, self.build)
                self.install()

    def test(self, arguments: str) -> str:
        """Run some tests until the first fails; return which, or nothing."""
        command = [sys.executable, "-m", "pytest", "-xq", "--tb=line", "-p", "no:cacheprovider"]
        environment = os.environ | {"PYTHONPATH": str(self.tree / "src")}
        environment.pop("XENT_ISA", None)
        with subprocess.Popen(
            [*command, *shlex.split(arguments)],
            cwd=self.tree,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                output, _ = process.communicate(timeout=SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                return f"no answer within {SECONDS} s"
        if process.returncode == 0:
            return ""
        if process.returncode < 0:
            return f"{signal.Signals(-process.returncode).name} in {arguments.split()[0]}"
        failed = re.search(r"^FAILED tests/(.*?)(?: - .*)?$", output, re.MULTILINE)
        return failed[1] if failed else f"an error of pytest: {output}"


def say(verdict: str, began: float, mutation: Mutation, what: str) -> None:
    seconds = time.perf_counter() - began
    head = f"{verdict:8} {seconds:4.0f} s  {mutation.guarantee}"
    print(f"{head}\n                 {mutation.file}, {what}", flush=True)


def run_one(workshop: Workshop, mutation: Mutation) -> bool:
    """Make one mutation, print which test caught it, and return whether one did."""
    began = time.perf_counter()
    if (found := places(mutation)) != 1:
        say("gone", began, mutation, f"{found} places hold {mutation.old!r}")
        return False
    with workshop.applied(mutation):
        try:
            if mutation.builds:
                workshop.compile()
        except BuildError as error:
            say("no build", began, mutation, str(error))
            return False
        caught_by = workshop.test(mutation.tests)
    if not caught_by:
        say("SURVIVES", began, mutation, f"not caught by pytest {mutation.tests}")
        return False
    say("caught", began, mutation, f"by {caught_by}")
    return True


def run_all(mutations: list[Mutation], kernels: str, folder: Path) -> int:
    """Return how many of the mutations that need the same kernels were not caught."""
    builds = any(mutation.builds for mutation in mutations)
    workshops: SimpleQueue[Workshop] = SimpleQueue()

    def in_a_workshop(work: Callable[[Workshop, Any], Any], what: Any) -> Any:
        workshop = workshops.get()
        try:
            return work(workshop, what)
        finally:
            workshops.put(workshop)

    count = min(len(os.sched_getaffinity(0)), len(mutations))
    with ThreadPoolExecutor(count) as pool:
        for made in pool.map(lambda i: Workshop(folder / str(i), kernels, builds), range(count)):
            workshops.put(made)
        # A test that fails without the mutation cannot catch it.
        tests = list(dict.fromkeys(mutation.tests for mutation in mutations))
        for which, failed in zip(
            tests, pool.map(partial(in_a_workshop, Workshop.test), tests), strict=True
        ):
            if failed:
                pool.shutdown(cancel_futures=True)
                raise SystemExit(f"pytest {which}: {failed} without any mutation")
        return list(pool.map(partial(in_a_workshop, run_one), mutations)).count(False)


def chosen(words: list[str], quick: bool) -> list[Mutation]:
    """The mutations that were asked for and that this machine can compile and run."""
    return [
        mutation
        for mutation in MUTATIONS
        if (not words or any(word in f"{mutation.guarantee} {mutation.file}" for word in words))
        and not (quick and mutation.kernels)
        and mutation.isa in _core.isas()
        and mutation.machine in ("", platform.machine())
    ]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", metavar="WORD")
    parser.add_argument("--quick", action="store_true", help="only what needs no kernels compiled")
    parser.add_argument("--list", action="store_true", help="print the mutations and make none")
    options = parser.parse_args()
    mutations = chosen(options.words, options.quick)
    if options.list:
        for mutation in mutations:
            print(f"{mutation.guarantee}\n    {mutation.file}, pytest {mutation.tests}")
        return 0
    missed = 0
    for kernels in dict.fromkeys(mutation.kernels for mutation in mutations):
        with tempfile.TemporaryDirectory() as folder:
            alike = [mutation for mutation in mutations if mutation.kernels == kernels]
            missed += run_all(alike, kernels, Path(folder))
    print(f"{len(mutations)} mutations, {missed} not caught")
    return int(missed > 0 or not mutations)


if __name__ == "__main__":
    sys.exit(main())
