"""For each promise one deliberate break, and whether the tests catch it.

    python tests/breaks.py                 every break: builds plain C kernels, 15 minutes or so
    python tests/breaks.py mean fork       those whose promise or file has one of the words
    python tests/breaks.py --quick         those that need no compiler
    python tests/breaks.py --list          what there is

A break is a change of one place in the source: a constant, an order, a mask, a clamp. It is made
in a copy of the source, built there, and the tests that are to catch it run until the first
fails. The exit status is 1 if a break survives, cannot be built, or its place is no longer there.
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from xent import _core

ROOT = Path(__file__).parent.parent
SECONDS = 600


class Break(NamedTuple):
    """What is promised, the text of one place and what becomes of it, the tests that see it.

    `tests` are arguments of pytest. `isa` is the instruction set that is built: plain C compiles
    ten times faster than the others. `machine` names the processors that know the place.
    """

    promise: str
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

BREAKS = (
    # What counts, and for how much.
    Break(
        "the mean over class indices divides by class weights too",
        "csrc/call.c",
        "const int weighted = call->class_weight || call->sample_weight.data;",
        "const int weighted = call->sample_weight.data != NULL;",
        "tests/test_semantics.py -k test_mean",
    ),
    Break(
        "the mean over class probabilities divides by sample weights alone",
        "csrc/call.c",
        "if (!is_loss(call) || (!call->index.data && !call->sample_weight.data))",
        "if (!is_loss(call) || !call->index.data)",
        "tests/test_semantics.py -k test_mean",
    ),
    Break(
        "the gradient of a mean of nothing is zeros",
        "csrc/kernels/row.h",
        "if (plan->no_row_counts)",
        "if (0 && plan->no_row_counts)",
        "tests/test_semantics.py -k test_nothing",
    ),
    Break(
        "an ignored class may be one that exists",
        "csrc/kernels/row.h",
        "return ((y == ignore) | ((uint64_t)y >= (uint64_t)plan->classes)) ? -1 : y;",
        "return (uint64_t)y >= (uint64_t)plan->classes ? -1 : y;",
        LINES,
    ),
    Break(
        "sample weights multiply the z-loss",
        "csrc/kernels/row.h",
        "z = plan->z * weight;",
        "z = plan->z;",
        LINES,
    ),
    Break(
        "class weights are those of the target",
        "csrc/kernels/row.h",
        "(double)((const real *)plan->class_weight)[target] : 1;",
        "(double)((const real *)plan->class_weight)[0] : 1;",
        "tests/test_options.py -k test_option",
    ),
    Break(
        "label smoothing shares its part among the classes",
        "csrc/call.c",
        ".mix_add = call->classes ? e / (double)call->classes : 0,",
        ".mix_add = e,",
        "tests/test_options.py -k test_option",
    ),
    # Logits that are products.
    Break(
        "an ignored row of NaN reaches no gradient of a linear layer",
        "src/xent/_linear.py",
        "counts &= self.index != self.ignore_index",
        "counts &= True",
        "tests/test_linear.py -k poison",
    ),
    Break(
        "every block adds to the gradient of a linear layer's weight",
        "src/xent/_linear.py",
        "self.sum[classes] += term",
        "self.sum[classes] = term",
        "tests/test_linear.py -k test_blocks",
    ),
    Break(
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
    Break(
        "a target out of range is an error before anything is written",
        "csrc/kernels/row.h",
        "inside += (uint64_t)y[i] < classes && y[i] != ignore;",
        "inside += y[i] < indices->classes && y[i] != ignore;",
        "tests/test_semantics.py -k target_out_of_range",
    ),
    Break(
        "targets are looked at again where they are used",
        "csrc/kernels/row.h",
        "return ((y == ignore) | ((uint64_t)y >= (uint64_t)plan->classes)) ? -1 : y;",
        "return y == ignore ? -1 : y;",
        "tests/test_process.py -k targets_changed",
    ),
    # Infinities and NaN.
    Break(
        "blocks of masked classes make no NaN",
        "csrc/kernels/vector.h",
        "#define f32_constant_LARGEST 0x1.fffffep127f",
        "#define f32_constant_LARGEST (float)INFINITY",
        LINES,
    ),
    Break(
        "0 times -inf is 0 for class probabilities",
        "csrc/kernels/reduce.h",
        "s->moment = v(select)(v(ne)(a, zero), v(fma)(a, t, *s->moment), *s->moment);",
        "s->moment = v(fma)(a, t, *s->moment);",
        LINES,
    ),
    Break(
        "NaN makes its row NaN",
        "csrc/kernels/reduce.h",
        "*counts = v(nlt)(exponent, v(set)(c(EXP_LEAST)));",
        "*counts = v(lt)(v(set)(c(EXP_LEAST)), exponent);",
        LINES,
    ),
    Break(
        "of nothing but masked classes there is no loss",
        "csrc/kernels/heads.h",
        "v(select)(empty, v(set)((real)NAN), v(add)(sums->rest, v(sub)(sums->hits, one)));",
        "v(add)(sums->rest, v(sub)(sums->hits, one));",
        LINES,
    ),
    Break(
        "a class that the student alone masks costs infinity, however unlikely for the teacher",
        "csrc/kernels/reduce.h",
        "chunk->moment += INFINITY;",
        "chunk->moment += 0;",
        "tests/test_distillation.py -k however_unlikely",
    ),
    Break(
        "infinities pass through the cap",
        "csrc/kernels/math.h",
        "v(select)(finite, value, x)",
        "value",
        LINES,
    ),
    Break(
        "class probabilities need not sum to 1",
        "csrc/kernels/heads.h",
        "pull = v(fma)(terms->grad_smooth, sums->mass, pull);",
        "pull = v(add)(terms->grad_smooth, pull);",
        LINES,
    ),
    # Accuracy.
    Break(
        "sure rows keep the digits of their loss",
        "csrc/kernels/heads.h",
        "r.log_sum = v(log1p)(rest);",
        "r.log_sum = v(log)(total);",
        "tests/test_accuracy.py -k certain_rows",
    ),
    Break(
        "sure rows keep the digits of their gradient",
        "csrc/kernels/heads.h",
        "r.at_target = v(mul)(v(sub)(zero, hard), others);",
        "r.at_target = v(mul)(hard, v(sub)(probability, one));",
        "tests/test_accuracy.py -k certain_rows",
    ),
    Break(
        "exp is good to 0.89 ulp",
        "csrc/kernels/vector.h",
        "0x1.5554915420452p-3f",
        "0x1.5555555555555p-3f",
        "tests/test_math.py",
    ),
    Break(
        "what is below the smallest normal number is 0",
        "csrc/kernels/apply.h",
        "    g = v(keep)(v(nlt)(e, row->floor), g);\n",
        "",
        "tests/test_accuracy.py -k flush",
    ),
    Break(
        "a new maximum in a later block costs no accuracy",
        "csrc/kernels/reduce.h",
        "chunk->rest = sum != 0 ? sum * f : 0;",
        "chunk->rest = sum != 0 ? (double)(float)(sum * f) : 0;",
        "tests/test_accuracy.py -k 'loss_and_gradient and edges and float64'",
    ),
    Break(
        "sums of losses are exact to an ulp",
        "csrc/kernels/elementwise.h",
        "s[1] = f64_add(s[1], f64_keep(f64_eq(error, error), error));",
        "(void)error;",
        "tests/test_accuracy.py -k reductions",
    ),
    Break(
        "the gradient has the slope of the cap",
        "csrc/kernels/math.h",
        "slope[j] = v(fnma)(tanh, tanh, one);",
        "slope[j] = one;",
        "tests/test_gradient.py",
    ),
    Break(
        "the Hessian has the curvature of the cap",
        "csrc/kernels/load.h",
        "v(mul)(v(mul)(p->cap_bend, z), slope)",
        "v(mul)(v(mul)(v(set)(0), z), slope)",
        "tests/test_hessian.py -k test_option",
    ),
    Break(
        "half types are rounded to even",
        "csrc/simd/scalar.h",
        "(u + 0x7fff + (u >> 16 & 1)) >> 16",
        "(u + 0x8000) >> 16",
        "tests/test_half.py -k every_pattern",
    ),
    # Bits.
    Break(
        "classes are summed in one order: by neighbours",
        "csrc/simd/scalar.h",
        "s[i] = s[2 * i] + s[2 * i + 1];",
        "s[i] = s[i] + s[i + width];",
        "tests/test_bits.py -k 'checked_in and 1-threads'",
    ),
    Break(
        "classes are summed in one order: in blocks",
        "csrc/kernels/kernel.h",
        "XENT_BLOCK = 1024,",
        "XENT_BLOCK = 2048,",
        "tests/test_bits.py -k 'checked_in and 1-threads'",
    ),
    Break(
        "classes are summed in one order: columns as rows",
        "csrc/kernels/tile.h",
        "add_lanes(&lanes, used, ABREAST, 0, &sums,",
        "add_lanes(&lanes, (used + 1) % (64 / ABREAST), ABREAST, 0, &sums,",
        "tests/test_layout.py -k test_class_axis",
    ),
    Break(
        "under a cap the gradient at the target has the cap's slope, in tiles too",
        "csrc/kernels/tile.h",
        "depends = transform == XENT_CAPPED || transform == XENT_GIVEN;",
        "depends = transform == XENT_GIVEN;",
        "tests/test_options.py -k softcap",
    ),
    Break(
        "a maximum that was found ahead is that of the block it is used for",
        "csrc/kernels/reduce.h",
        "known->at == block ? known->max",
        "known->at ? known->max",
        "tests/test_semantics.py -k ignored",
    ),
    Break(
        "threads do not share the sums of their rows",
        "csrc/call.c",
        "w->chunks + worker * w->chunks_each",
        "w->chunks",
        "tests/test_threads.py -k very_long",
    ),
    Break(
        "pieces of elements are whole blocks, however many threads",
        "csrc/elementwise.c",
        "storage_bytes(call) + compute_bytes(call), XENT_SUM_BLOCK, compute_blocks, w);",
        "storage_bytes(call) + compute_bytes(call), XENT_PIECE, compute_blocks, w);",
        "tests/test_elementwise.py -k bits",
    ),
    Break(
        "every instruction set gives the bits of scalar.h",
        "csrc/simd/avx2.h",
        "XENT_VECTOR(f32, float, __m256, 16, ps, epi32, epi32, 23, 0x3f800000 - 0x3f3504f3,",
        "XENT_VECTOR(f32, float, __m256, 16, ps, epi32, epi32, 23, 0x3f800000 - 0x3f350000,",
        "tests/test_bits.py -k 'checked_in and 1-threads'",
        isa="avx2",
    ),
    # Memory.
    Break(
        "before a row that does not count, the line that the row before has begun is finished",
        "csrc/kernels/wide.h",
        "            close_seam(&out_seam, out);\n",
        "",
        "tests/test_layout.py -k outgrow",
    ),
    Break(
        "the end of the last row that shares a head is written",
        "csrc/kernels/wide.h",
        "    close_seam(&out_seam, rows->out + (r + lanes) * rows->out_step);\n",
        "",
        "tests/test_layout.py -k outgrow",
    ),
    Break(
        "the end of the last row that shares a head is written, of the Hessian too",
        "csrc/kernels/wide.h",
        "        close_seam(&hess_seam, rows->hess + (r + lanes) * rows->hess_step);\n",
        "        ;\n",
        "tests/test_layout.py -k outgrow",
    ),
    Break(
        "of elements that are streamed, those before the first whole line are written",
        "csrc/kernels/elementwise.h",
        "    memcpy(o->to, o->from, (size_t)o->first);\n",
        "",
        "tests/test_elementwise.py -k outgrow",
    ),
    Break(
        "outputs may not overlap inputs",
        "src/xent/_arguments.py",
        "            if overlap(out, source) and not",
        "            if out is source and not",
        "tests/test_aliasing.py",
    ),
    Break(
        "only exactly in place is in place",
        "src/xent/_arguments.py",
        "        and a.strides == b.strides\n",
        "",
        "tests/test_aliasing.py",
    ),
    Break(
        "buffers that cannot be written to are refused",
        "src/xent/_arguments.py",
        "if not value.flags.writeable:",
        "if value is None:",
        "tests/test_bad_input.py",
    ),
    Break(
        "nothing beyond a row is read",
        "csrc/kernels/reduce.h",
        "static inline int lanes_left(int64_t left) { return left >= LANES ? LANES : left <= 0 ? 0 : (int)left; }",
        "static inline int lanes_left(int64_t left) { return left <= 0 ? 0 : LANES; }",
        "tests/test_layout.py -k nothing_beyond",
    ),
    Break(
        "copies are made a block at a time",
        "src/xent/_rows.py",
        "max(1, BLOCK_BYTES // row_bytes)",
        "max(1, 1 << 60)",
        "tests/test_memory.py -k conversion",
    ),
    # The process.
    Break(
        "a child of fork computes",
        "csrc/parallel.c",
        "pthread_atfork(before_fork, NULL, in_child)",
        "pthread_atfork(NULL, NULL, in_child)",
        "tests/test_process.py -k fork",
    ),
    Break(
        "a child of fork beside an old runtime computes",
        "csrc/parallel.c",
        "atomic_store(&orphaned, 1);",
        "(void)orphaned;",
        "tests/test_process.py -k cannot_let",
    ),
    Break(
        "a thread that cannot be started is done without",
        "csrc/parallel.c",
        "return threads < size ? threads : size;",
        "return threads;",
        "tests/test_process.py -k cannot_be_started",
    ),
    Break(
        "nothing stays allocated",
        "csrc/call.c",
        "    free(w.chunks);\n",
        "",
        "tests/test_memory.py -k failed_allocations",
    ),
    Break(
        "the floating-point state of others reaches no result",
        "csrc/environment.h",
        "        _mm_setcsr(DEFAULT);\n",
        "        ;\n",
        "tests/test_process.py -k flushing",
        machine="x86_64",
    ),
    Break(
        "the floating-point state of the process is given back",
        "csrc/environment.h",
        "        _mm_setcsr(before);\n",
        "        ;\n",
        "tests/test_process.py -k flushing",
        machine="x86_64",
    ),
    Break(
        "nor does their rounding reach a mean",
        "csrc/call.c",
        "    const fp_state before = fp_enter();\n",
        "    const fp_state before = _mm_getcsr();\n",
        "tests/test_machines.py -k disturbed",
        machine="x86_64",
    ),
    Break(
        "Ctrl-C is answered during a call",
        "csrc/parallel.c",
        "if (w->poll(w->poll_data))",
        "if (w->poll(w->poll_data) && 0)",
        "tests/test_process.py -k interrupting",
    ),
    Break(
        "XENT_NUM_THREADS comes before OMP_NUM_THREADS",
        "csrc/threads.c",
        'n = variable("XENT_NUM_THREADS");',
        'n = variable("OMP_NUM_THREADS");',
        "tests/test_process.py -k number_of_threads",
    ),
    # Python's own part.
    Break(
        "masked arrays are refused",
        "src/xent/_arguments.py",
        "    if isinstance(value, np.ma.MaskedArray):\n",
        "    if isinstance(value, bytes):\n",
        "tests/test_bad_input.py",
    ),
    Break(
        "longdouble is refused",
        "src/xent/_arguments.py",
        'dtype.kind in "fiub" and dtype.itemsize <= 8 and',
        'dtype.kind in "fiub" and',
        "tests/test_bad_input.py",
    ),
    Break(
        "flags are judged before anything is written",
        "src/xent/special.py",
        '    return_sign = arguments.flag(return_sign, "return_sign")\n',
        "",
        "tests/test_bad_input.py -k return_sign",
    ),
    Break(
        "class indices are no floating-point numbers",
        "src/xent/_arguments.py",
        'if found.dtype.kind not in "iub":',
        'if found.dtype.kind not in "iubf":',
        "tests/test_bad_input.py",
    ),
    Break(
        "label_smoothing is at most 1",
        "src/xent/_arguments.py",
        'number(value, "label_smoothing", 0.0, 1.0,',
        'number(value, "label_smoothing", 0.0, 2.0,',
        "tests/test_bad_input.py",
    ),
    Break(
        "ignore_index is compared by value, not by bits",
        "src/xent/_arguments.py",
        "    if not least <= value <= most:\n        return None\n",
        "",
        "tests/test_semantics.py -k by_value",
    ),
    Break(
        "integers are computed in float64",
        "src/xent/_arguments.py",
        "dtype = np.dtype(np.float64)",
        "dtype = np.dtype(np.float32)",
        "tests/test_options.py -k integer_and_bool",
    ),
    Break(
        "a number of threads is for its own context",
        "src/xent/runtime.py",
        "        _core.context_threads.reset(token)\n",
        "        pass\n",
        "tests/test_threads.py -k context_manager",
    ),
    # What is in the binaries.
    Break(
        "the extension exports its module alone",
        "CMakeLists.txt",
        "set(CMAKE_C_VISIBILITY_PRESET hidden)\n",
        "",
        "tests/test_binary.py -k exports_its_module",
    ),
    Break(
        "symbols are bound before a table of them can be written to",
        "CMakeLists.txt",
        "ITEMS relro now noexecstack",
        "ITEMS relro noexecstack",
        "tests/test_binary.py -k loader_protects",
    ),
)


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def places(broken: Break) -> int:
    """How often its text is there; once is right."""
    return text_of(ROOT / broken.file).count(broken.old)


class BuildError(Exception):
    """What the compiler had to say."""


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
    """A copy of the source, and the kernels of one instruction set."""

    def __init__(self, folder: Path, isa: str, builds: bool):
        self.tree, self.build, self.pristine = (folder / x for x in ("xent", "build", "pristine"))
        built = shutil.ignore_patterns(".*", "build", "dist", "__pycache__", "*.so")
        shutil.copytree(ROOT, self.tree, ignore=built)
        if not builds:
            shutil.copy2(_core.__file__, self.tree / "src/xent")
            return
        cmake, others = self.tree / "csrc/CMakeLists.txt", rf"^ *xent_isa\((?!{isa}\b).*\n"
        cmake.write_text(re.sub(others, "", text_of(cmake), flags=re.MULTILINE))
        # No bit depends on optimisation, which takes most of the time of a build.
        options = "-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_C_FLAGS_DEBUG=-O1"
        python = f"-DPython_EXECUTABLE={sys.executable}"
        run("cmake", "-S", self.tree, "-B", self.build, "-G", "Ninja", python, *options)
        self.compile()
        shutil.copytree(self.build, self.pristine)

    def compile(self) -> None:
        """Bring the extension up to date with the source."""
        run("cmake", "--build", self.build)
        self.install()

    def install(self) -> None:
        """Put extension and library where they are found."""
        (extension,) = self.build.glob("_core.*.so")
        library = self.tree / "src/xent/lib"
        library.mkdir(exist_ok=True)
        shutil.copy2(extension, self.tree / "src/xent")
        shutil.copy2(self.build / "libxent.a", library)

    @contextmanager
    def breaking(self, broken: Break) -> Iterator[None]:
        """Make the break; undo it, and bring back what was built before."""
        file = self.tree / broken.file
        before, times = text_of(file), file.stat()
        file.write_text(before.replace(broken.old, broken.new), encoding="utf-8")
        try:
            yield
        finally:
            file.write_text(before, encoding="utf-8")
            os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
            if broken.builds:
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


def say(verdict: str, began: float, broken: Break, what: str) -> None:
    print(f"{verdict:8} {time.perf_counter() - began:4.0f} s  {broken.promise}", flush=True)
    print(f"                 {broken.file}, {what}", flush=True)


def judge(workshop: Workshop, broken: Break) -> bool:
    """Make one break and say what caught it."""
    began = time.perf_counter()
    with workshop.breaking(broken):
        try:
            if broken.builds:
                workshop.compile()
        except BuildError as error:
            say("no build", began, broken, str(error))
            return False
        caught_by = workshop.test(broken.tests)
    if not caught_by:
        say("SURVIVES", began, broken, f"not caught by pytest {broken.tests}")
        return False
    say("caught", began, broken, f"by {caught_by}")
    return True


def judge_all(breaks: list[Break], isa: str, folder: Path) -> int:
    """Return how many of the breaks of one instruction set were not caught."""
    builds = any(broken.builds for broken in breaks)
    workshop = Workshop(folder, isa, builds)
    missed = 0
    for tests in dict.fromkeys(broken.tests for broken in breaks):
        # What fails anyway catches nothing.
        if failed := workshop.test(tests):
            raise SystemExit(f"pytest {tests}: {failed} without any break")
    for broken in breaks:
        if places(broken) != 1:
            say("gone", time.perf_counter(), broken, f"{places(broken)} places hold {broken.old!r}")
            missed += 1
        else:
            missed += not judge(workshop, broken)
    return missed


def chosen(words: list[str], quick: bool) -> list[Break]:
    """The breaks that were asked for, of those that this machine knows."""
    return [
        broken
        for broken in BREAKS
        if (not words or any(word in f"{broken.promise} {broken.file}" for word in words))
        and not (quick and broken.builds)
        and broken.isa in _core.isas()
        and broken.machine in ("", platform.machine())
    ]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", metavar="WORD")
    parser.add_argument("--quick", action="store_true", help="only what needs no compiler")
    parser.add_argument("--list", action="store_true", help="print them and break nothing")
    options = parser.parse_args()
    breaks = chosen(options.words, options.quick)
    if options.list:
        for broken in breaks:
            print(f"{broken.promise}\n    {broken.file}, pytest {broken.tests}")
        return 0
    missed = 0
    for isa in dict.fromkeys(broken.isa for broken in breaks):
        with tempfile.TemporaryDirectory() as folder:
            missed += judge_all([b for b in breaks if b.isa == isa], isa, Path(folder))
    print(f"{len(breaks)} breaks, {missed} not caught")
    return int(missed > 0 or not breaks)


if __name__ == "__main__":
    sys.exit(main())
