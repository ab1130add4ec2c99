"""C, C++ and Cython programs compile against the installed headers and library, and compute the same results."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

import xent
from library import LIBRARY
from xent import _core

ROOT = Path(__file__).parent.parent
NATIVE = ROOT / "tests/native"
HEADER = (ROOT / "csrc/xent.h").read_text()

PROGRAM = r"""
#include <stdio.h>
#include "xent.h"

int main(void) {
    double logits[] = {1, 2, 3, 6, 5, 4}, gradient[6];
    int64_t targets[] = {2, 1}, shape[] = {2}, row[] = {24}, one[] = {8};
    xent_call call = XENT_CALL_DEFAULTS;
    call.dtype = XENT_F64, call.ndim = 1, call.shape = shape, call.classes = 3;
    call.logits.data = logits, call.logits.strides = row;
    call.out.data = gradient, call.out.strides = row;
    call.index.data = targets, call.index.strides = one, call.index_type = XENT_I64;
    if (xent_start() || xent_run(&call) != XENT_OK) return 1;
    printf("%.17g\n", call.result);
    for (int i = 0; i < 6; i++) printf("%.17g\n", gradient[i]);
    return 0;
}
"""
LOGSUMEXP = """
def logsumexp(double[:, ::1] a, double[::1] out):
    cdef int64_t shape = a.shape[0], row = a.strides[0], one = out.strides[0]
    cdef xent_call call = XENT_CALL_DEFAULTS
    call.operation, call.dtype = XENT_LOGSUMEXP, XENT_F64
    call.ndim, call.shape, call.classes = 1, &shape, a.shape[1]
    call.logits.data, call.logits.strides = &a[0, 0], &row
    call.lse.data, call.lse.strides = &out[0], &one
    with nogil:
        status = xent_run(&call)
    return status == XENT_OK
"""
LINKED = "from xent.xent cimport *\n" + LOGSUMEXP
IMPORTED = (
    "from xent.xent cimport *\nfrom xent.capi cimport xent_import\nxent_import()\n" + LOGSUMEXP
)
THREADS = "\ndef threads():\n    return xent_get_num_threads()\n"
EXTENSION = r"""
#include <Python.h>
#include <xent_capi.h>

static PyObject *describe(PyObject *module, PyObject *nothing) {
    (void)module, (void)nothing;
    xent_call call = XENT_CALL_DEFAULTS;
    call.ndim = -1;
    const xent_status status = xent_run(&call);
    return Py_BuildValue("sissz", xent_version(), xent_get_num_threads(), xent_isa(), xent_status_text(status),
                         call.bad_argument);
}

static PyMethodDef methods[] = {{"describe", describe, METH_NOARGS, NULL}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "module", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_module(void);
PyMODINIT_FUNC PyInit_module(void) {
    CHANGE
    if (xent_import() < 0) return NULL;
    return PyModule_Create(&definition);
}
"""
CONSUMER = """
cmake_minimum_required(VERSION 3.20)
project(consumer LANGUAGES C)
find_package(xent 0.1 REQUIRED)
add_executable(program program.c)
target_link_libraries(program PRIVATE xent::xent)
"""
COMPILER = os.environ.get("CC", sysconfig.get_config_var("CC") or "cc").split()
CXX = os.environ.get("CXX", sysconfig.get_config_var("CXX") or "c++").split()
LINK = (f"-L{LIBRARY}", "-lxent", "-fopenmp", "-lm")
INCLUDE = "-I" + xent.get_include()
WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Werror")


def run(*command: str | Path, at: Path, **environment: str) -> str:
    """Run a command, which must succeed, and return its output."""
    done = subprocess.run(
        command,
        cwd=at,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check_printed(printed: str) -> None:
    """Whether it is the loss and the gradient that Python computes."""
    logits = np.array([[1.0, 2.0, 3.0], [6.0, 5.0, 4.0]])
    loss, grad = xent.cross_entropy(logits, [2, 1], return_grad=True)
    assert [float(line) for line in printed.split()] == [loss, *grad.ravel()]


def fields(struct: str = "xent_call") -> list[str]:
    """The fields of a struct, in order."""
    code = re.sub(r"/\*.*?\*/", "", HEADER, flags=re.S)
    (body,) = re.findall(rf"typedef struct \{{([^}}]*)\}} {struct};", code)
    return re.findall(r"(\w+)(?:\)\(void \*data\))?[;,]", body)


# Both languages, with the defaults in them.
@pytest.mark.parametrize(
    ("compiler", "standard", "suffix"),
    [(COMPILER, "c11", "c"), (CXX, "c++17", "cpp")],
    ids=("c11", "c++17"),
)
def test_program(tmp_path, compiler, standard, suffix):
    (tmp_path / f"program.{suffix}").write_text(PROGRAM)
    options = (*WARNINGS, f"-std={standard}", INCLUDE)
    run(*compiler, *options, f"program.{suffix}", *LINK, "-o", "program", at=tmp_path)
    check_printed(run(tmp_path / "program", at=tmp_path))


def test_every_field_is_checked(tmp_path):
    program = tmp_path / "fields"
    source = NATIVE / "fields.c"
    run(
        *COMPILER,
        "-std=c11",
        "-g",
        *WARNINGS[:2],
        INCLUDE,
        source,
        *LINK,
        "-o",
        program,
        at=tmp_path,
    )
    assert re.fullmatch(r"\d+ refused\n", run(program, at=tmp_path))


def test_every_field_is_tried():
    """But for results, and what may be anything."""
    results = {"bad_argument", "bad_row", "divisor", "total", "result"}
    anything = {"ignore_index", "poll", "poll_data"}
    named = {name.removesuffix("_class_step") for name in fields()}
    tried = re.findall(r"BAD\w*\((?:.*?\)), (\w+),", (NATIVE / "fields.c").read_text())
    assert {"size", "hess", "threads"} <= named
    assert named - results - anything - set(tried) == set()


def test_text_of_the_environment_is_a_threads_own(tmp_path):
    """What is wrong with it is told two threads in places of their own."""
    (tmp_path / "texts.c").write_text(r"""
#include <pthread.h>
#include <stdio.h>
#include "xent.h"
static void *start(void *unused) { (void)unused; return (void *)xent_start(); }
int main(void) {
    pthread_t other;
    void *theirs;
    const char *ours = xent_start();
    if (!ours || pthread_create(&other, NULL, start, NULL) || pthread_join(other, &theirs)) return 1;
    printf("%s", ours);
    return theirs == (void *)ours;
}
""")
    run(*COMPILER, INCLUDE, "texts.c", *LINK, "-pthread", "-o", "texts", at=tmp_path)
    for name, value in {"XENT_ISA": "mmx", "XENT_NUM_THREADS": "many"}.items():
        assert run(tmp_path / "texts", at=tmp_path, **{name: value}).startswith(f"{name}='{value}'")


def test_version():
    assert _core.version() == xent.__version__


def build(folder: Path, source: str, *link: str) -> None:
    """Compile a Cython module with setuptools."""
    (folder / "module.pyx").write_text(source)
    (folder / "setup.py").write_text(
        "import xent\n"
        "from Cython.Build import cythonize\n"
        "from setuptools import Extension, setup\n"
        "module = Extension('module', ['module.pyx'], include_dirs=[xent.get_include()],\n"
        f"                   extra_link_args={list(link)})\n"
        "setup(name='module', ext_modules=cythonize([module], language_level=3))\n"
    )
    # The last word on optimisation, of which Cython's own code takes much.
    flags = f"{os.environ.get('CFLAGS', '')} -O0"
    run(sys.executable, "setup.py", "--quiet", "build_ext", "--inplace", at=folder, CFLAGS=flags)


@pytest.mark.parametrize(
    ("source", "link", "threads"),
    [(LINKED, LINK, "3"), (IMPORTED, (), "7")],
    ids=("linked", "imported"),
)
def test_cython_module(tmp_path, source, link, threads):
    """What is imported is the library of Python, with its number of threads; what is linked, another."""
    build(tmp_path, source + THREADS, *link)
    script = (
        "import module, numpy as np, xent\n"
        "xent.set_num_threads(7)\n"
        "a, out = np.arange(12.0).reshape(3, 4) % 5, np.empty(3)\n"
        "assert module.logsumexp(a, out)\n"
        "assert out.tobytes() == xent.logsumexp(a, axis=1).tobytes()\n"
        "print(module.threads())\n"
    )
    printed = run(sys.executable, "-c", script, at=tmp_path, XENT_NUM_THREADS="3")
    assert printed.strip() == threads


def build_extension(folder: Path, change: str) -> None:
    (folder / "module.c").write_text(EXTENSION.replace("CHANGE", change))
    python = "-I" + sysconfig.get_path("include")
    shared = ("-shared", "-fPIC", "-o", "module" + sysconfig.get_config_var("EXT_SUFFIX"))
    warnings = ("-Wall", "-Wextra", "-Werror")  # Python's headers are not pedantic
    run(*COMPILER, *warnings, python, INCLUDE, "module.c", *shared, at=folder)


def test_extension_uses_the_library_that_is_loaded(tmp_path):
    build_extension(tmp_path, "")
    script = "import module, xent; xent.set_num_threads(5); print(*module.describe(), sep='|')"
    version, threads, isa, text, field = run(sys.executable, "-c", script, at=tmp_path).split("|")
    assert (version, threads, isa) == (xent.__version__, "5", _core.isa())
    assert (text, field.strip()) == ("a field of the call is not accepted", "ndim")


@pytest.mark.parametrize("change", ["api_version", "size"])
def test_extension_of_another_version_is_not_imported(tmp_path, change):
    build_extension(tmp_path, "")
    script = f"""
import ctypes, xent
from xent import _core
pointer = ctypes.pythonapi.PyCapsule_GetPointer
pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
table = pointer(_core._C_API, b"xent._core._C_API")
other = (ctypes.c_char * 512).from_buffer_copy(ctypes.string_at(table, 512))
{"ctypes.c_int.from_buffer(other, 0)" if change == "api_version" else "ctypes.c_size_t.from_buffer(other, 8)"}.value -= 1
new = ctypes.pythonapi.PyCapsule_New
new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
_core._C_API = new(ctypes.addressof(other), b"xent._core._C_API", None)
try:
    import module
except ImportError as error:
    print(error)
"""
    assert "compiled for version 1 of xent's C API" in run(
        sys.executable, "-c", script, at=tmp_path
    )


def test_every_function_can_be_imported():
    """But for those that measure memory, and that which calls need not."""
    declared = set(re.findall(r"^[\w ]+?\*?(xent_\w+)\(", HEADER, re.MULTILINE))
    measuring = {"xent_memory_read", "xent_memory_copy"}
    text = (ROOT / "csrc/xent_capi.h").read_text()
    listed = re.findall(r"^    FUNCTION\([\w *]+, (\w+), ", text, re.MULTILINE)
    assert {f"xent_{name}" for name in listed} == declared - measuring - {"xent_call_defaults"}
    defined = re.findall(r"^#define (xent_\w+) xent_loaded->(\w+)$", text, re.MULTILINE)
    assert defined == [(f"xent_{name}", name) for name in listed]


def test_cython_knows_every_field_and_function():
    declared = (ROOT / "src/xent/xent.pxd").read_text()
    for struct in ("xent_array", "xent_sums", "xent_call"):
        (body,) = re.findall(rf"struct {struct}:\n((?: {{8}}.*\n)+)", declared)
        named = re.findall(r"(\w+)(?:\)\(void \*data\) noexcept)?$", body, re.MULTILINE)
        assert named == fields(struct)
    functions = r"^[\w ]+?\*?(xent_\w+)\("
    assert set(re.findall(functions, declared, re.MULTILINE)) == set(
        re.findall(functions, HEADER, re.MULTILINE)
    )
    for enum in re.findall(r"typedef enum \{([^}]*)\} xent_(?:dtype|status|reduction);", HEADER):
        names = re.findall(r"XENT_\w+", re.sub(r"/\*.*?\*/", "", enum, flags=re.S))
        assert re.search(r"\s+".join(names), declared)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library without Python, with the kernels of LIBRARY, as distributions install it: for /usr, below DESTDIR."""
    at = tmp_path_factory.mktemp("installed")
    paths = ("-DCMAKE_INSTALL_PREFIX=/usr", "-DCMAKE_INSTALL_LIBDIR=lib/some-machine")
    options = ("-DXENT_PYTHON=OFF", f"-DXENT_LIBRARY={LIBRARY}", *paths)
    run("cmake", "-S", ROOT, "-B", at / "build", "-G", "Ninja", *options, at=at)
    run("cmake", "--build", at / "build", at=at)
    run("cmake", "--install", at / "build", at=at, DESTDIR=str(at / "root"))
    files = {
        file.relative_to(at / "root/usr") for file in (at / "root").rglob("*") if file.is_file()
    }
    assert {str(file.parent) for file in files} == {
        "include/xent",
        "lib/some-machine",
        "lib/some-machine/cmake/xent",
        "lib/some-machine/pkgconfig",
    }
    # The folder may be moved.
    (at / "root/usr").rename(at / "moved")
    return at / "moved"


def test_cmake_package(installed, tmp_path):
    (tmp_path / "program.c").write_text(PROGRAM)
    (tmp_path / "CMakeLists.txt").write_text(CONSUMER)
    run(
        "cmake",
        "-S",
        ".",
        "-B",
        "build",
        "-G",
        "Ninja",
        f"-Dxent_DIR={installed}/lib/some-machine/cmake/xent",
        at=tmp_path,
    )
    run("cmake", "--build", "build", at=tmp_path)
    check_printed(run(tmp_path / "build/program", at=tmp_path))


@pytest.mark.skipif(not shutil.which("pkg-config"), reason="no pkg-config")
def test_pkg_config(installed, tmp_path):
    (tmp_path / "program.c").write_text(PROGRAM)
    (folder,) = {file.parent for file in installed.rglob("xent.pc")}
    found = {"PKG_CONFIG_PATH": str(folder)}
    flags = run("pkg-config", "--cflags", "--libs", "xent", at=tmp_path, **found).split()
    run(*COMPILER, "program.c", *flags, "-o", "program", at=tmp_path)
    check_printed(run(tmp_path / "program", at=tmp_path))
    assert (
        run("pkg-config", "--modversion", "xent", at=tmp_path, **found).strip() == xent.__version__
    )
