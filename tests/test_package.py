"""Installed files, the contents of the source distribution, and the messages of builds that fail."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path, PurePath

import numpy as np
import pytest

import xent
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
        "lib/libxent.a",
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
    modules = {file.name.partition(".")[0] for file in inside if file.suffix == ".so"}
    assert modules == {"_arguments", "_core", "_ffi", "_functions", "_pool", "_request"}
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
    folders = ("benchmarks", "cmake", "csrc", "docs", "examples", "src", "tests")
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
        "LICENSE",
        "pyproject.toml",
        "CMakeLists.txt",
    )
    assert files >= tracked | {PurePath(name) for name in documents}
    assert not {file.parts[0] for file in files if file.parts} & {"build", ".ci", ".git", ".github"}
    assert not [file for file in files if file.suffix in {".so", ".o", ".a", ".pyc"}]
    assert not files & {path.relative_to(ROOT) for path in built}


def configure(at: Path, *options: str, compiler: str | None = None) -> str:
    """Configure a build that must fail, and return what it says."""
    done = subprocess.run(
        ["cmake", "-S", ROOT, "-B", at / "build", "-G", "Ninja", *options],
        env=WITH_SCRIPTS if compiler is None else {**WITH_SCRIPTS, "CC": compiler},
        capture_output=True,
        text=True,
        timeout=60,
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
        timeout=60,
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


def test_flags_that_would_change_bits(tmp_path):
    """What is compiled has the digests of the build without them, and no bytecode."""
    flags = "-O2 -Ofast -ffast-math -flto"
    done = configured(tmp_path, "-DXENT_DTYPES=f32;f64", CFLAGS=flags)
    assert done.returncode == 0, done.stderr
    command = ["cmake", "--build", tmp_path / "build"]
    subprocess.run(command, env=WITH_SCRIPTS, check=True, capture_output=True)
    assert b"gnu.lto" not in (tmp_path / "build/libxent.a").read_bytes()
    digest, csrc = tmp_path / "digest", ROOT / "csrc"
    parts = [file for file in (csrc / "call").glob("*.c") if 'include "call.h"' in file.read_text()]
    sources = (ROOT / "tests/native/digest.c", *parts, tmp_path / "build/libxent.a")
    options = ("-std=gnu11", "-O1", "-ffp-contract=off", "-DXENT_TEST_PIECES", f"-I{csrc}")
    subprocess.run(["cc", *options, *sources, "-fopenmp", "-lm", "-o", digest], check=True)
    done = subprocess.run([digest], capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout == (ROOT / "tests/native/digest.txt").read_text()


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


def test_no_openmp(tmp_path: Path) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text('#!/bin/sh\ncase "$*" in *openmp*) exit 1 ;; esac\nexec cc "$@"\n')
    compiler.chmod(0o755)
    message = configure(tmp_path, compiler=str(compiler))
    assert "xent needs a C compiler with OpenMP." in message
    assert "Debian, Ubuntu: apt-get install gcc, or libomp-dev for clang" in message


def test_no_python_headers(tmp_path: Path) -> None:
    message = configure(tmp_path, "-DCMAKE_DISABLE_FIND_PACKAGE_Python=ON")
    assert "Debian, Ubuntu: apt-get install python3-dev" in message
