"""Mutations of `src/xent/_arguments.py`, where arguments are validated, that mutmut generates, and which of them survive.

    pip install mutmut
    python tests/generated_mutations.py           makes each mutation; takes some minutes
    python tests/generated_mutations.py FOLDER    does so in this folder, which is kept

mutmut makes the mutations in a copy of the source, and for each one runs the quick tests that call the function. Those
that survive are printed; the exit status is 1 if they are more than one in ten. The mutations written by hand, one for
each guarantee, are in `mutations.py`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from xent import _core

ROOT = Path(__file__).parent.parent
MUTATED = "src/xent/_arguments.py"
TESTS = ("arguments", "bad_input", "aliasing")
KILLED = 0.9


def mutmut(folder: Path, *arguments: str) -> str:
    """Run mutmut and return what it prints."""
    command = [sys.executable, "-m", "mutmut", *arguments]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.stdout)
    return done.stdout


def run(folder: Path) -> bool:
    """Make every mutation in this folder, print the survivors, return whether they are few enough."""
    for part in ("src", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", "*.so")
        shutil.copytree(ROOT / part, folder / part, ignore=ignored, dirs_exist_ok=True)
    shutil.copy2(_core.__file__, folder / "src/xent")
    settings = {
        "source_paths": ["src"],
        "only_mutate": [MUTATED],
        "pytest_add_cli_args_test_selection": [f"tests/test_{name}.py" for name in TESTS],
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    text = "\n".join([project, "[tool.mutmut]", *lines, ""])
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    mutmut(folder, "run", "--max-children", "1")
    for line in mutmut(folder, "results").splitlines():
        print(mutmut(folder, "show", line.split(":")[0].strip()), flush=True)
    mutmut(folder, "export-cicd-stats")
    stats = json.loads((folder / "mutants/mutmut-cicd-stats.json").read_text(encoding="utf-8"))
    print({name: count for name, count in stats.items() if count})
    return stats["killed"] + stats["timeout"] >= KILLED * stats["total"]


def main() -> int:
    if len(sys.argv) > 1:
        return int(not run(Path(sys.argv[1])))
    with tempfile.TemporaryDirectory() as folder:
        return int(not run(Path(folder)))


if __name__ == "__main__":
    sys.exit(main())
