"""Installed files, the contents of the source distribution, and the messages of builds that fail."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from importlib import metadata
from pathlib import Path, PurePath

import numpy as np
import pytest

import xent
from test_headers import COMPILER
from xent import _core

ROOT = Path(__file__).parent.parent
# Where NumPy is, and the module of each public name.
FOLDERS = [str(Path(np.__file__).parent.parent)]
PUBLIC = {name: getattr(xent, name).__module__.rpartition(".")[2] for name in xent.__all__}
WITH_SCRIPTS = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def test_one_version() -> None:
    latest = re.search(r"^## \[(\d.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert latest
    assert xent.__version__ == metadata.version("xent") == _core.version() == latest[1]
    for file in ("CITATION.cff", "packaging/conda/recipe.yaml"):
        assert re.findall(
            r'^ *version: "?(\d[^"\s]*)', (ROOT / file).read_text(), re.MULTILINE
        ) == [latest[1]]


def test_what_is_tested_is_what_is_installed() -> None:
    """Neither the source folder nor another copy hides the package that `pip` knows of, or parts of it."""
    direct = metadata.distribution("xent").read_text("direct_url.json") or "{}"
    if json.loads(direct).get("dir_info", {}).get("editable"):
        assert Path(xent.__file__).parent == ROOT / "src/xent"
        return
    files = {Path(str(file.locate())).resolve() for file in metadata.files("xent") or []}
    modules = [module for name, module in sys.modules.items() if name.partition(".")[0] == "xent"]
    assert len(modules) > 20
    assert {Path(str(module.__file__)).resolve() for module in modules} <= files


def test_requirements_are_those_of_the_recipe() -> None:
    recipe = (ROOT / "packaging/conda/recipe.yaml").read_text()
    listed = set(re.findall(r"^ +- ([\w-]+ >=[\d.]+)$", recipe, re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {*project["build-system"]["requires"], *project["project"]["dependencies"]}
    needed.add("cmake" + project["tool"]["scikit-build"]["cmake"]["version"])
    assert listed == {requirement.replace(">=", " >=") for requirement in needed}


def test_links_survive_an_index() -> None:
    """The description that indexes show has the README's text, and no link that leads nowhere without the source."""
    text = str(metadata.metadata("xent").get_payload())
    source = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Source"]
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert [link for link in links if not link.startswith(("https://", "#"))] == []
    ours = [link.removeprefix(f"{source}/blob/main/") for link in links if link.startswith(source)]
    assert len(ours) > 10
    assert [path for path in ours if not (ROOT / path.partition("#")[0]).exists()] == []


def test_library_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_core, "__file__", str(tmp_path / "_core.so"))
    with pytest.raises(FileNotFoundError, match=r"-C cmake\.define\.XENT_INSTALL_LIBRARY=ON"):
        xent.get_library()


def test_without_metadata(tmp_path: Path) -> None:
    """As where an application is frozen, and of nothing but the modules that a reader of the source would collect."""
    source = Path(xent.__file__).parent
    named = {"_functions", "_linear", "_keywords", "__init__"} | {
        PUBLIC[name] for name in xent.__all__
    }
    for text in map(Path.read_text, source.glob("*.py")):
        named |= set(
            re.findall(r"\b_[a-z]+\b", " ".join(re.findall(r"from xent import (.*)", text)))
        )
        named |= set(re.findall(r"from xent\.(\w+) import", text))
    (tmp_path / "xent").mkdir()
    for file in source.iterdir():
        if file.stem.partition(".")[0] in named and file.suffix in {".py", ".so"}:
            shutil.copy(file, tmp_path / "xent")
    script = """if True:
        import numpy as np, xent
        assert xent.__version__[0].isdigit()
        x = np.arange(6.0).reshape(2, 3)
        xent.logsumexp(x, b=x)
        xent.cross_entropy(np.zeros((70_000, 3), ">f4"), np.zeros(70_000, int))
        xent.linear_cross_entropy(x, x, [0, 1], return_grad=True)
        print(xent.__file__)"""
    done = subprocess.run(
        [
            sys.executable,
            "-S",
            "-c",
            f"import sys; sys.path[:0] = {[str(tmp_path), *FOLDERS]}\n{script}",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == str(tmp_path / "xent/__init__.py"), done.stderr


def test_numpy_is_the_only_dependency() -> None:
    needed = [line for line in metadata.requires("xent") or [] if "extra ==" not in line]
    assert needed == ["numpy>=2.0"]
    script = "import sys, xent; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert not {"scipy", "rich", "matplotlib", "torch", "jax", "Cython"} & set(done.stdout.split())


def test_installed_files() -> None:
    files = {PurePath(file) for file in metadata.files("xent") or []}
    inside = {file.relative_to("xent") for file in files if file.parts[0] == "xent"}
    headers = {"xent.h", "operations.def", "xent_capi.h"}
    wanted = (
        "py.typed",
        "__init__.pyi",
        "_core.pyi",
        "_pool.pyi",
        "xent.pxd",
        "capi.pxd",
        "operations.pxi",
    )
    wanted += ("cli/check.json", *(f"include/{name}" for name in headers))
    assert inside >= {PurePath(name) for name in wanted}
    assert {file.suffix for file in inside} <= {
        ".py",
        ".pyc",
        ".pyi",
        ".pxd",
        ".pxi",
        ".def",
        ".h",
        ".a",
        ".so",
        ".typed",
        ".json",
    }
    # The option XENT_INSTALL_LIBRARY.
    assert {str(file) for file in inside if file.suffix == ".a"} <= {"lib/libxent.a"}
    modules = {file.name.partition(".")[0] for file in inside if file.suffix == ".so"}
    assert modules == {
        "_arguments",
        "_core",
        "_ffi",
        "_functions",
        "_head",
        "_layer",
        "_pool",
        "_request",
    }
    assert {file.name for file in inside if file.suffix in (".h", ".def")} == headers
    # The second is the OpenMP runtime, in a wheel that was repaired.
    outside = {file.parts[0] for file in files} - {"xent", "xent.libs"}
    assert all(name.endswith(".dist-info") for name in outside), outside


def test_source_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = pytest.importorskip("scikit_build_core.build")
    monkeypatch.chdir(ROOT)
    with tarfile.open(tmp_path / build.build_sdist(str(tmp_path))) as archive:
        files = {PurePath(*PurePath(name).parts[1:]) for name in archive.getnames()}
    # Tests need all of it: they compile, read the manual, run the examples.
    folders = (
        ".ci",
        "benchmarks",
        "cmake",
        "csrc",
        "docs",
        "examples",
        "packaging",
        "src",
        "tests",
    )
    paths = [path for folder in folders for path in ROOT.glob(f"{folder}/**/*") if path.is_file()]
    # What an editable install and the site write beside the source.
    built = {ROOT / "src/xent/__init__.pyi", *ROOT.glob("docs/api/*"), *ROOT.glob("docs/outside/*")}
    tracked = {
        path.relative_to(ROOT)
        for path in paths
        if path.suffix not in {".pyc", ".so"} and path not in built
    }
    documents = (
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "CITATION.cff",
        "LICENSE",
        "pyproject.toml",
        "CMakeLists.txt",
    )
    assert files >= tracked | {PurePath(name) for name in documents}
    assert not {file.parts[0] for file in files if file.parts} & {"build", ".git", ".github"}
    assert not [file for file in files if file.suffix in {".so", ".o", ".a", ".pyc"}]
    assert not files & {path.relative_to(ROOT) for path in built}


def configure(at: Path, *options: str, compiler: str | None = None) -> str:
    """Configure a build that must fail, and return what it says."""
    done = subprocess.run(
        ["cmake", "-S", ROOT, "-B", at / "build", "-G", "Ninja", *options],
        env=WITH_SCRIPTS if compiler is None else {**WITH_SCRIPTS, "CC": compiler},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode != 0
    return " ".join(done.stderr.split())


def configured(at: Path, *options: str, **settings: str) -> subprocess.CompletedProcess[str]:
    parts = ("-DXENT_PYTHON=OFF", "-DXENT_ISAS=scalar", "-DXENT_DTYPES=f32", *options)
    return subprocess.run(
        [
            str(shutil.which("cmake", path=WITH_SCRIPTS["PATH"])),
            "-S",
            ROOT,
            "-B",
            at / "build",
            "-G",
            "Ninja",
            *parts,
        ],
        env={**WITH_SCRIPTS, **settings},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {"CC": "{at}/absent"},
            "Could not find the compiler specified in the environment variable CC",
        ),
        ({"CC": "false"}, "is not able to compile a simple test program"),
        ({"CFLAGS": "-fno-such-option"}, "-fno-such-option"),
        ({"CC": "cc --no-such-option"}, "--no-such-option"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_compiler_that_does_not_work(tmp_path, settings, says):
    """CMake's own words say what is wrong with what was named; no advice to install a compiler hides them."""
    done = configured(tmp_path, **{k: v.format(at=tmp_path) for k, v in settings.items()})
    message = " ".join((done.stdout + done.stderr).split())
    assert done.returncode != 0
    assert says in message
    assert "xent needs a C compiler" not in message


def test_no_compiler(tmp_path: Path) -> None:
    for tool in ("cmake", "ninja"):
        (tmp_path / tool).symlink_to(str(shutil.which(tool, path=WITH_SCRIPTS["PATH"])))
    done = configured(tmp_path, PATH=str(tmp_path), CC="")
    assert "xent needs a C compiler. Debian, Ubuntu: apt-get install gcc" in " ".join(
        done.stderr.split()
    )


@pytest.mark.parametrize("words", ["env {cc}", "{cc} --sysroot=/", "{cc} -g0 -pipe"])
def test_a_compiler_of_several_words(tmp_path, words):
    """Such as that of ccache: the whole of them is used."""
    compiler = str(shutil.which("cc"))
    done = configured(tmp_path, CC=words.format(cc=compiler))
    assert done.returncode == 0, done.stderr
    commands = (tmp_path / "build/CMakeFiles/rules.ninja").read_text()
    assert " ".join(words.format(cc=compiler).split()[1:]) in commands


@pytest.mark.parametrize("flag", ["-ffast-math", "-Ofast", "-funsafe-math-optimizations"])
def test_flags_that_are_left_out(tmp_path, flag):
    done = configured(tmp_path, CFLAGS=f"-g0 {flag} -pipe")
    assert done.returncode == 0, done.stderr
    assert f"xent is compiled without {flag}" in " ".join(done.stderr.split())
    assert flag not in (tmp_path / "build/build.ninja").read_text()


def library_with_the_digests(tmp_path, *options, link, **settings):
    """Build the library of plain C, whose calls must have the digests of all others, and return its bytes."""
    done = configured(tmp_path, "-DXENT_DTYPES=f32;f64", *options, **settings)
    assert done.returncode == 0, done.stderr
    command = ["cmake", "--build", tmp_path / "build"]
    subprocess.run(command, env=WITH_SCRIPTS, check=True, capture_output=True)
    digest, csrc = tmp_path / "digest", ROOT / "csrc"
    parts = [file for file in (csrc / "call").glob("*.c") if 'include "call.h"' in file.read_text()]
    sources = (ROOT / "tests/native/digest.c", *parts, tmp_path / "build/libxent.a")
    flags = ("-std=gnu11", "-O1", "-ffp-contract=off", "-DXENT_TEST_PIECES", f"-I{csrc}")
    subprocess.run([*COMPILER, *flags, *sources, *link, "-lm", "-o", digest], check=True)
    done = subprocess.run([digest], capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout == (ROOT / "tests/native/digest.txt").read_text()
    return (tmp_path / "build/libxent.a").read_bytes()


def test_flags_that_would_change_bits(tmp_path):
    """What is compiled has the digests of the build without them, and no bytecode."""
    flags = "-O2 -Ofast -ffast-math -flto"
    library = library_with_the_digests(tmp_path, link=["-fopenmp"], CFLAGS=flags)
    assert b"gnu.lto" not in library


def test_a_build_without_openmp(tmp_path):
    """One thread, and the same bits; nothing of OpenMP or of threads is called."""
    options = ("-DXENT_OPENMP=OFF", "-DCMAKE_BUILD_TYPE=Quick", "-DCMAKE_C_FLAGS_QUICK=-O1")
    library = library_with_the_digests(tmp_path, *options, link=["-lpthread"])
    assert b"omp_" not in library
    assert b"pthread_" not in library


@pytest.mark.parametrize(
    "flag", ["-ffast-math", "-Ofast", "-ffinite-math-only", "-fno-signed-zeros -ffast-math"]
)
def test_sources_compiled_otherwise_refuse(flag):
    source = ROOT / "csrc/kernels/kernel.h"
    command = ["cc", "-std=gnu11", "-fsyntax-only", "-xc", *flag.split(), source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert (
        "change what is computed, and with it bits and bounds: compile without them" in done.stderr
    )
    subprocess.run(["cc", "-std=gnu11", "-fsyntax-only", "-xc", source], check=True)


def test_the_source_folder_is_left_alone():
    """Two installations at once do not meet, and a folder may be read-only: `.ci/oldest` builds from one."""
    assert "build-dir" not in (ROOT / "pyproject.toml").read_text()


def compiler_without(at: Path, word: str) -> str:
    """One that refuses every command with this word."""
    compiler = at / "cc"
    compiler.write_text(f'#!/bin/sh\ncase "$*" in *{word}*) exit 1 ;; esac\nexec cc "$@"\n')
    compiler.chmod(0o755)
    return str(compiler)


def test_no_openmp(tmp_path: Path) -> None:
    message = configure(tmp_path, compiler=compiler_without(tmp_path, "-fopenmp"))
    assert "xent needs a C compiler with OpenMP." in message
    assert "Debian, Ubuntu: apt-get install gcc, or libomp-dev for clang" in message
    assert "-DXENT_OPENMP=OFF, of pip -C cmake.define.XENT_OPENMP=OFF" in message


def test_a_compiler_without_c11(tmp_path):
    """Or without the options that keep bits."""
    message = configure(tmp_path, compiler=compiler_without(tmp_path, "-ffp-contract=off"))
    assert "xent needs a compiler of C11" in message


@pytest.mark.skipif(platform.machine() != "x86_64", reason="of x86-64")
def test_a_compiler_without_an_instruction_set(tmp_path):
    compiler = compiler_without(tmp_path, "-mavx512vl")
    done = configured(tmp_path, "-DXENT_ISAS=", CC=compiler)
    assert done.returncode == 0, done.stderr
    assert "xent is built without avx512" in " ".join(done.stderr.split())
    table = (tmp_path / "build/csrc/xent_isas.h").read_text()
    assert re.findall(r"XENT_ISA\((\w+)", table) == ["avx2", "scalar"]


def test_a_processor_without_any_instruction_set_of_the_build(tmp_path):
    """Says so where it starts; what is compiled for plain C as well runs anywhere."""
    (tmp_path / "xent_isas.h").write_text("XENT_ISA(scalar, 0)\n")
    (tmp_path / "xent_version.h").write_text('#define XENT_VERSION "0"\n')
    (tmp_path / "main.c").write_text(
        "#include <stdio.h>\n#include <xent.h>\n"
        "const char xent_kernels_scalar_f32[9], xent_kernels_scalar_f64[9];\n"
        "const char *xent_threads_start(void) { return 0; }\n"
        "int main(void) { puts(xent_start()); }\n"
    )
    csrc, program = ROOT / "csrc", tmp_path / "program"
    options = ("-std=gnu11", f"-I{tmp_path}", f"-I{csrc}", "-o", program)
    subprocess.run(["cc", *options, tmp_path / "main.c", csrc / "call/dispatch.c"], check=True)
    said = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    assert said.startswith("this processor lacks what xent was built for, scalar: build it with ")


def test_no_python_headers(tmp_path: Path) -> None:
    message = configure(tmp_path, "-DCMAKE_DISABLE_FIND_PACKAGE_Python=ON")
    assert "xent needs Python >= 3.11, its headers, and NumPy." in message
    assert "Debian, Ubuntu: apt-get install python3-dev" in message


def test_no_cython(tmp_path, monkeypatch):
    """As where a build without isolation has not been prepared."""
    (tmp_path / "cython.py").write_text("raise ImportError")
    monkeypatch.setitem(WITH_SCRIPTS, "PYTHONPATH", str(tmp_path))
    assert "-m pip install cython" in configure(tmp_path, f"-DPython_EXECUTABLE={sys.executable}")


def test_a_python_that_is_too_old():
    """What pip tells, and refuses, before anything is built."""
    assert metadata.metadata("xent")["Requires-Python"] == ">=3.11"
