"""Mutation tests: for each guarantee one mutation of the source that breaks it, which a test must catch.

    python tests/mutations.py                 every mutation, one on each core: builds plain C kernels, minutes
    python tests/mutations.py mean fork       those whose guarantee or file has one of the words
    python tests/mutations.py --quick         those that need no compiler
    python tests/mutations.py --list          prints the mutations and makes none

A mutation changes one place in the source: a constant, an order, a mask, a clamp. It is made in a copy of the source and
built there, and the tests that must catch it run until the first one fails. The exit status is 1 if a mutation survives,
cannot be built, or its place is no longer in the source.
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
    def builds(self) -> bool:
        """Whether it needs a compiler."""
        return self.file.startswith(("csrc/", "CMake")) or self.file.endswith((".pyx", ".pxd"))


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
    # Logits that are products.
    Mutation(
        "an ignored row of NaN reaches no gradient of a linear layer",
        "src/xent/_linear.py",
        "counts &= self.index != self.ignore_index",
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
        "g[i] = flushed(v(mul)(g[i], d));",
        "g[i] = v(mul)(g[i], d);",
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
        "add_lanes(lanes, used, ABREAST, 0, &sums,",
        "add_lanes(lanes, (used + 1) % (64 / ABREAST), ABREAST, 0, &sums,",
        "tests/test_layout.py -k test_class_axis",
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
        "src/xent/_arguments.py",
        "            if overlap(out, source) and not",
        "            if out is source and not",
        "tests/test_aliasing.py",
    ),
    Mutation(
        "only exactly in place is in place",
        "src/xent/_arguments.py",
        "        and a.strides == b.strides\n",
        "",
        "tests/test_aliasing.py",
    ),
    Mutation(
        "buffers that cannot be written to are refused",
        "src/xent/_arguments.py",
        "if not value.flags.writeable:",
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
        "src/xent/_rows.py",
        "max(1, BLOCK_BYTES // row_bytes)",
        "max(1, 1 << 60)",
        "tests/test_memory.py -k conversion",
    ),
    # The process: forks, threads, floating-point state, signals.
    Mutation(
        "a child of fork has a team of its own",
        "csrc/call/team.c",
        "pthread_atfork(before_fork, in_parent, in_child)",
        "pthread_atfork(before_fork, in_parent, in_parent)",
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
        "csrc/call/team.c",
        "    pthread_attr_destroy(&attributes);\n    return n;",
        "    pthread_attr_destroy(&attributes);\n    return threads;",
        "tests/test_process.py -k cannot_be_started",
    ),
    Mutation(
        "nor one for whose large stack there is no room",
        "csrc/call/team.c",
        "stack = xent_stack_bytes();",
        "stack = 0;",
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
        "pthread_cond_wait(&team.work, &team.lock);",
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
        "    xent_return_workspaces(workspaces, workers);\n",
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
        "    if (workers == 0)\n        return XENT_NO_MEMORY;\n",
        "    if (workers == 0)\n        return XENT_OK;\n",
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
        "        _mm_setcsr(before);\n",
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
        "&& s->temperature == before->temperature;",
        ";",
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
        "*const target = b->has_target ? b : a;",
        "*const target = a;",
        "tests/test_stages.py",
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
        "csrc/call/threads.c",
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
        "return limit < n ? limit : n;",
        "return n;",
        "tests/test_team.py -k limits",
    ),
    # Arguments, validated in Python.
    Mutation(
        "masked arrays are refused",
        "src/xent/_arguments.py",
        "    if isinstance(value, np.ma.MaskedArray):\n",
        "    if isinstance(value, bytes):\n",
        "tests/test_bad_input.py",
    ),
    Mutation(
        "longdouble is refused",
        "src/xent/_arguments.py",
        'dtype.kind in "fiub" and dtype.itemsize <= 8 and',
        'dtype.kind in "fiub" and',
        "tests/test_bad_input.py",
    ),
    Mutation(
        "flags are validated before anything is written",
        "src/xent/special.py",
        '    return_sign = arguments.flag(return_sign, "return_sign")\n',
        "",
        "tests/test_bad_input.py -k return_sign",
    ),
    Mutation(
        "class indices are no floating-point numbers",
        "src/xent/_arguments.py",
        'if found.dtype.kind not in "iub":',
        'if found.dtype.kind not in "iubf":',
        "tests/test_bad_input.py",
    ),
    Mutation(
        "label_smoothing is at most 1",
        "src/xent/_arguments.py",
        'number(value, "label_smoothing", 0.0, 1.0,',
        'number(value, "label_smoothing", 0.0, 2.0,',
        "tests/test_bad_input.py",
    ),
    Mutation(
        "ignore_index is compared by value, not by bits",
        "src/xent/_arguments.py",
        "    if not least <= value <= most:\n        return None\n",
        "",
        "tests/test_semantics.py -k by_value",
    ),
    Mutation(
        "integers are computed in float64",
        "src/xent/_arguments.py",
        "dtype = np.dtype(np.float64)",
        "dtype = np.dtype(np.float32)",
        "tests/test_options.py -k integer_and_bool",
    ),
    Mutation(
        "a number of threads holds in its own context alone",
        "src/xent/runtime.py",
        "        _core.context_threads.reset(token)\n",
        "        pass\n",
        "tests/test_threads.py -k context_manager",
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
    """A copy of the source, built with the kernels of one instruction set."""

    def __init__(self, folder: Path, isa: str, builds: bool):
        self.tree, self.build, self.pristine = (folder / x for x in ("xent", "build", "pristine"))
        built = shutil.ignore_patterns(".*", "build", "dist", "__pycache__", "*.so")
        shutil.copytree(ROOT, self.tree, ignore=built)
        if not builds:
            shutil.copy2(_core.__file__, self.tree / "src/xent")
            return
        # No bit depends on optimisation, which takes most of the time of a build.
        options = "-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_C_FLAGS_DEBUG=-O1", f"-DXENT_ISAS={isa}"
        python = f"-DPython_EXECUTABLE={sys.executable}"
        run("cmake", "-S", self.tree, "-B", self.build, "-G", "Ninja", python, *options)
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


def run_all(mutations: list[Mutation], isa: str, folder: Path) -> int:
    """Return how many of the mutations of one instruction set were not caught."""
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
        for made in pool.map(lambda i: Workshop(folder / str(i), isa, builds), range(count)):
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
        and not (quick and mutation.builds)
        and mutation.isa in _core.isas()
        and mutation.machine in ("", platform.machine())
    ]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", metavar="WORD")
    parser.add_argument("--quick", action="store_true", help="only what needs no compiler")
    parser.add_argument("--list", action="store_true", help="print the mutations and make none")
    options = parser.parse_args()
    mutations = chosen(options.words, options.quick)
    if options.list:
        for mutation in mutations:
            print(f"{mutation.guarantee}\n    {mutation.file}, pytest {mutation.tests}")
        return 0
    missed = 0
    for isa in dict.fromkeys(mutation.isa for mutation in mutations):
        with tempfile.TemporaryDirectory() as folder:
            missed += run_all([m for m in mutations if m.isa == isa], isa, Path(folder))
    print(f"{len(mutations)} mutations, {missed} not caught")
    return int(missed > 0 or not mutations)


if __name__ == "__main__":
    sys.exit(main())
