"""What is installed for C and Cython is enough to compile against, and computes the same."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np

import xent

PROGRAM = r"""
#include <stdio.h>
#include "xent.h"

int main(void) {
    double logits[] = {1, 2, 3, 6, 5, 4}, gradient[6];
    int64_t targets[] = {2, 1}, shape[] = {2}, row[] = {24}, one[] = {8};
    xent_call call = XENT_CALL_DEFAULTS;
    call.dtype = XENT_F64, call.ndim = 1, call.shape = shape, call.classes = 3;
    call.logits = (xent_array){logits, row}, call.out = (xent_array){gradient, row};
    call.index = (xent_array){targets, one}, call.index_type = XENT_I64;
    if (xent_start() || xent_run(&call) != XENT_OK) return 1;
    printf("%.17g\n", call.result);
    for (int i = 0; i < 6; i++) printf("%.17g\n", gradient[i]);
    return 0;
}
"""
MODULE = """
from xent.xent cimport *

def logsumexp(double[:, ::1] a, double[::1] out):
    cdef int64_t shape = a.shape[0], row = a.strides[0], one = out.strides[0]
    cdef xent_call call = XENT_CALL_DEFAULTS
    call.operation, call.dtype = XENT_LOGSUMEXP, XENT_F64
    call.ndim, call.shape, call.classes = 1, &shape, a.shape[1]
    call.logits.data, call.logits.strides = &a[0, 0], &row
    call.lse.data, call.lse.strides = &out[0], &one
    call.reduction = XENT_NONE
    return xent_run(&call) == XENT_OK
"""
COMPILER = os.environ.get("CC", sysconfig.get_config_var("CC") or "cc").split()
LINK = ("-L" + xent.get_library(), "-lxent", "-fopenmp", "-lm")


def run(*command: str | Path, at: Path) -> str:
    """Run a command, which must succeed, and return its output."""
    done = subprocess.run(command, cwd=at, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_c_program(tmp_path):
    (tmp_path / "program.c").write_text(PROGRAM)
    include = "-I" + xent.get_include()
    warnings = ("-Wall", "-Wextra", "-Werror", "-std=c11", "-pedantic")
    run(*COMPILER, *warnings, include, "program.c", *LINK, "-o", "program", at=tmp_path)
    printed = [float(line) for line in run(tmp_path / "program", at=tmp_path).split()]
    logits = np.array([[1.0, 2.0, 3.0], [6.0, 5.0, 4.0]])
    loss, grad = xent.cross_entropy(logits, [2, 1], return_grad=True)
    assert printed == [loss, *grad.ravel()]


def test_header_is_valid_cpp(tmp_path):
    (tmp_path / "header.cpp").write_text('#include "xent.h"\nint main() { return !xent_isa(); }\n')
    compiler = (sysconfig.get_config_var("CXX") or "c++").split()
    run(
        *compiler,
        "-Wall",
        "-Werror",
        "-fsyntax-only",
        "-I" + xent.get_include(),
        "header.cpp",
        at=tmp_path,
    )


def test_cython_module(tmp_path):
    (tmp_path / "module.pyx").write_text(MODULE)
    (tmp_path / "setup.py").write_text(
        "import xent\n"
        "from Cython.Build import cythonize\n"
        "from setuptools import Extension, setup\n"
        "module = Extension('module', ['module.pyx'], include_dirs=[xent.get_include()],\n"
        f"                   extra_link_args={list(LINK)})\n"
        "setup(name='module', ext_modules=cythonize([module], language_level=3))\n"
    )
    run(sys.executable, "setup.py", "--quiet", "build_ext", "--inplace", at=tmp_path)
    script = (
        "import module, numpy as np, xent\n"
        "a, out = np.arange(12.0).reshape(3, 4) % 5, np.empty(3)\n"
        "assert module.logsumexp(a, out)\n"
        "assert out.tobytes() == xent.logsumexp(a, axis=1).tobytes()\n"
    )
    run(sys.executable, "-c", script, at=tmp_path)
