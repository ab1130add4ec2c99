"""The figures of docs/theory.md and metrics.md can be drawn again, and are those that the pages show."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

DOCS = Path(__file__).parent.parent / "docs"
# These are of runs of ``python -m xent bench`` and of benchmarks/scaling.py, and the last is drawn by hand.
OTHERS = ("bench.svg", "bench-avx512.svg", "classes.svg", "scaling.svg", "choose.svg")
# And these of the examples and the demo: test_examples.py draws them.
EXAMPLES = {f"{path.stem}.svg" for path in (DOCS.parent / "examples").glob("*.py")}
EXAMPLES.add("language_model.svg")
IMAGES = {
    path.name: path
    for path in (DOCS / "images").iterdir()
    if path.name not in EXAMPLES.union(OTHERS)
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of figures, by two processes."""
    folder = tmp_path_factory.mktemp("figures")
    for name in ("once", "again"):
        command = [sys.executable, "-W", "error", str(DOCS / "plots.py"), str(folder / name)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    return folder


def words(figure: Path) -> list[str]:
    """What is written in a figure, numbers apart."""
    found = re.findall(r"<(?:text|tspan)[^>]*>([^<]+)<", figure.read_text(encoding="utf-8"))
    return [text for text in found if not re.fullmatch(r"[−\d. ×]+", text)]


def test_the_pages_show_every_figure(drawn: Path) -> None:
    pages = ((DOCS / name).read_text(encoding="utf-8") for name in ("theory.md", "metrics.md"))
    shown = re.findall(r"\(images/(\S+)\)", "\n".join(pages))
    assert sorted(shown) == sorted(IMAGES) == sorted(path.name for path in drawn.glob("once/*"))


@pytest.mark.parametrize("name", sorted(IMAGES))
def test_figure(drawn: Path, name: str) -> None:
    once, again = drawn / "once" / name, drawn / "again" / name
    assert once.read_bytes() == again.read_bytes()
    # Curves may differ in their last digits between machines; what they are called may not.
    assert words(once) == words(IMAGES[name]) != []
    assert IMAGES[name].stat().st_size < 50_000
