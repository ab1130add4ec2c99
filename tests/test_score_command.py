"""``python -m xent score``: its metrics are those of arrays in memory; files it cannot score are named in one line."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import xent
from xent import metrics
from xent.cli import main
from xent.cli.score import arrays

CLASSES = 40
DTYPES = ("float16", "float32", "float64", ">f4", "bfloat16")


def written(folder: Path, dtype: str = "float32", shape: tuple[int, ...] = (6, 50)) -> list[str]:
    """Write logits and targets, some of them ignored; return their paths."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (*shape, CLASSES))
    targets = (logits + 2 * rng.gumbel(size=logits.shape)).argmax(axis=-1)
    targets.flat[::9] = -100
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    np.save(folder / "logits.npy", logits.astype(kind))
    np.save(folder / "targets.npy", targets)
    return [str(folder / "logits.npy"), str(folder / "targets.npy")]


def loaded(folder: Path, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """The arrays of `written`, of which bfloat16 comes back as two bytes without a type."""
    logits = np.load(folder / "logits.npy")
    if dtype == "bfloat16":
        logits = logits.view(ml_dtypes.bfloat16).astype(np.float32)
    return logits, np.load(folder / "targets.npy")


def report(arguments: list[str], folder: Path) -> dict[str, Any]:
    """Run the command in this process, and return its JSON."""
    assert main(["score", *arguments, "--json", str(folder / "report.json")]) == 0
    return json.loads((folder / "report.json").read_text())


@pytest.fixture(params=[1, 3000, arrays.BLOCK_BYTES], ids=lambda n: f"{n}-bytes")
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Read in blocks of a row, of a few that do not divide all rows, of all rows."""
    monkeypatch.setattr(arrays, "BLOCK_BYTES", request.param)
    return request.param


def assert_is_report(found: dict[str, Any], logits: np.ndarray, targets: np.ndarray) -> None:
    """Compare with the functions, of all rows at once."""
    rows, labels = logits.reshape(-1, CLASSES), targets.ravel()
    t = found["temperature"]
    tokens = metrics.Perplexity()
    tokens.update(rows, labels, temperature=t)
    expected = tokens.compute()
    assert found["count"] == expected.count
    for name in ("loss", "perplexity", "bits_per_token", "stderr"):
        assert found[name] == pytest.approx(getattr(expected, name), rel=1e-6)
    counts = labels != -100
    p = xent.softmax(rows[counts].astype(np.float64) / t, axis=-1)
    options = {"labels": np.arange(CLASSES)}
    for name, function, more in (
        ("accuracy", metrics.top_k_accuracy, {"k": 1}),
        ("top_5_accuracy", metrics.top_k_accuracy, {"k": 5}),
        ("calibration_error", metrics.expected_calibration_error, {}),
    ):
        value = function(labels[counts], p, **options, **more)
        assert found[name] == pytest.approx(value, rel=1e-5), name


@pytest.mark.parametrize("dtype", DTYPES)
def test_report_is_that_of_arrays_in_memory(dtype, blocks, threads, tmp_path):
    found = report([*written(tmp_path, dtype), "--bytes", "1234"], tmp_path)
    (result,) = found["results"]
    logits, targets = loaded(tmp_path, dtype)
    assert result["temperature"] == 1
    assert found["shape"] == [6, 50, CLASSES]
    if dtype != "float16":  # which ties logits that are not the largest
        assert_is_report(result, logits.astype(logits.dtype.newbyteorder("=")), targets)
    assert result["bits_per_byte"] == pytest.approx(
        result["bits_per_token"] * result["count"] / 1234
    )


def test_reports_do_not_depend_on_blocks_and_threads(tmp_path, monkeypatch):
    paths, reports = written(tmp_path), []
    for size in (1, 5000, 1 << 20):
        monkeypatch.setattr(arrays, "BLOCK_BYTES", size)
        for n in (1, 3):
            with xent.num_threads(n):
                reports.append(report(paths, tmp_path)["results"][0])
    exact = (
        "loss",
        "perplexity",
        "bits_per_token",
        "count",
        "stderr",
        "accuracy",
        "top_5_accuracy",
    )
    assert all(one[name] == reports[0][name] for one in reports for name in exact)


def test_loss_by_position(blocks, tmp_path):
    paths = written(tmp_path)
    (result,) = report(paths, tmp_path)["results"]
    logits, targets = loaded(tmp_path, "float32")
    losses = xent.cross_entropy(logits, targets, reduction="none").astype(np.float64)
    rows = (targets != -100).sum(axis=0)
    curve = result["loss_by_position"]
    assert curve["positions"] == list(range(50))
    assert curve["rows"] == rows.tolist()
    np.testing.assert_allclose(curve["loss"], losses.sum(axis=0) / rows, rtol=1e-6)


def test_positions_of_one_long_sequence(tmp_path):
    """Of (N, C) logits all rows are one sequence, in a hundred parts."""
    paths = written(tmp_path, shape=(1000,))
    curve = report(paths, tmp_path)["results"][0]["loss_by_position"]
    assert curve["positions"] == [10.0 * i for i in range(100)]
    logits, targets = loaded(tmp_path, "float32")
    losses = xent.cross_entropy(logits, targets, reduction="none").astype(np.float64)
    rows = (targets != -100).reshape(100, 10).sum(axis=1)
    assert curve["rows"] == rows.tolist()
    np.testing.assert_allclose(curve["loss"], losses.reshape(100, 10).sum(axis=1) / rows, rtol=1e-6)


def test_reliability(tmp_path):
    (result,) = report(written(tmp_path), tmp_path)["results"]
    logits, targets = loaded(tmp_path, "float32")
    p = xent.softmax(logits.astype(float), axis=-1)[targets != -100]
    right = p.argmax(axis=-1) == targets[targets != -100]
    bins = np.ceil(p.max(axis=-1) * 15).astype(int) - 1
    found = result["reliability"]
    assert found["rows"] == np.bincount(bins, minlength=15).tolist()
    for b in np.unique(bins):
        assert found["confidence"][b] == pytest.approx(p.max(axis=-1)[bins == b].mean(), rel=1e-5)
        assert found["accuracy"][b] == pytest.approx(right[bins == b].mean())


@pytest.mark.parametrize("dtype", ["float16", "float32", "bfloat16"])
def test_temperature(dtype, blocks, tmp_path):
    first, second = report([*written(tmp_path, dtype), "--fit-temperature"], tmp_path)["results"]
    logits, targets = loaded(tmp_path, dtype)
    assert second["temperature"] == pytest.approx(
        metrics.fit_temperature(logits.astype(np.float32), targets), rel=1e-4
    )
    assert second["loss"] < first["loss"]
    assert second["calibration_error"] < first["calibration_error"]
    if dtype == "float32":
        assert_is_report(second, logits, targets)


def test_no_temperature(tmp_path, capsys):
    np.save(tmp_path / "logits.npy", np.array([[1.0, 0.0], [0.0, 1.0]]))
    np.save(tmp_path / "targets.npy", [1, 0])
    paths = [str(tmp_path / name) for name in ("logits.npy", "targets.npy")]
    assert main(["score", *paths, "--fit-temperature"]) == 0
    assert "falls towards T = inf" in capsys.readouterr().out


def test_folders_of_shards(blocks, tmp_path):
    """Files of unequal length, one of them empty, in the order of their names."""
    whole = report(written(tmp_path), tmp_path)["results"]
    logits, targets = loaded(tmp_path, "float32")
    for name, array, cuts in (("z", logits, [1, 1, 4]), ("y", targets, [2, 5])):
        (tmp_path / name).mkdir()
        for i, part in enumerate(np.split(array, cuts)):
            np.save(tmp_path / name / f"{i:03}.npy", part)
    folders = [str(tmp_path / "z"), str(tmp_path / "y")]
    for found, expected in zip(report(folders, tmp_path)["results"], whole, strict=True):
        assert found["loss"] == expected["loss"]
        assert found["reliability"]["rows"] == expected["reliability"]["rows"]


def test_bits_of_bfloat16(tmp_path):
    paths = written(tmp_path, "bfloat16")
    expected = report(paths, tmp_path)["results"]
    np.save(paths[0], np.load(paths[0]).view(np.uint16))
    assert report([*paths, "--dtype", "bfloat16"], tmp_path)["results"] == expected


def test_nothing_counts(tmp_path, capsys):
    np.save(tmp_path / "logits.npy", np.zeros((3, 4)))
    np.save(tmp_path / "targets.npy", np.full(3, -1))
    paths = [str(tmp_path / name) for name in ("logits.npy", "targets.npy")]
    (result,) = report([*paths, "--ignore-index", "-1"], tmp_path)["results"]
    assert (result["count"], result["loss"], result["accuracy"]) == (0, None, None)
    assert "0 of 3 rows count" in capsys.readouterr().out
    np.save(paths[0], np.zeros((0, 4)))
    np.save(paths[1], np.zeros(0, int))
    assert report(paths, tmp_path)["results"][0]["count"] == 0


def test_output(tmp_path, capsys):
    paths = written(tmp_path)
    assert main(["score", *paths, "--bytes", "500"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for name in (
        "Logits",
        "Targets",
        "Read",
        "Temperature",
        "Loss",
        "Perplexity",
        "Bits",
        "Accuracy",
    ):
        assert re.search(rf"^{name} ", out, re.MULTILINE), name
    logits, targets = loaded(tmp_path, "float32")
    loss = float(xent.cross_entropy(logits, targets))
    assert float(re.search(r"^Loss +([\d.]+)", out, re.MULTILINE)[1]) == pytest.approx(
        loss, abs=2e-6
    )


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_plot(suffix, magic, tmp_path):
    pytest.importorskip("matplotlib")
    file = tmp_path / f"figure.{suffix}"
    assert main(["score", *written(tmp_path), "--fit-temperature", "--plot", str(file)]) == 0
    content = file.read_bytes()
    assert content.startswith(magic)
    if suffix == "svg":
        text = content.decode()
        assert all(word in text for word in ("confidence", "accuracy", "position", "ECE"))


# What is refused.


def cut_short(folder: Path) -> None:
    with (folder / "logits.npy").open("r+b") as file:
        file.truncate(1000)


def archive(folder: Path) -> None:
    with (folder / "logits.npy").open("wb") as file:
        np.savez(file, a=1)


def spoilt(path, old, new):
    data = path.read_bytes()
    path.write_bytes(data.replace(old, new, 1))


BAD: dict[str, tuple[Any, str]] = {
    "absent": (lambda f: (f / "logits.npy").unlink(), r"logits.npy: .*No such file"),
    "cut short": (cut_short, r"logits.npy: .* or one that was cut short"),
    "text": (lambda f: (f / "logits.npy").write_text("1 2 3"), r"logits.npy: "),
    "a header that does not end": (
        lambda f: spoilt(f / "logits.npy", b"}", b" "),
        r"logits.npy: not an array of numbers",
    ),
    "a header of nonsense": (
        lambda f: spoilt(f / "logits.npy", b"'shape': (", b"'shape': (True, "),
        r"logits.npy: ",
    ),
    "empty": (lambda f: (f / "logits.npy").write_text(""), r"logits.npy: "),
    "archive": (
        archive,
        r"logits.npy: expected an array as numpy.save writes it",
    ),
    "objects": (
        lambda f: np.save(f / "logits.npy", np.array([{}, None]), allow_pickle=True),
        r"logits.npy: not an array of numbers as numpy.save writes it",
    ),
    "Fortran order": (
        lambda f: np.save(f / "logits.npy", np.zeros((300, CLASSES), order="F")),
        r"logits.npy: the array is in Fortran order",
    ),
    "integers": (
        lambda f: np.save(f / "logits.npy", np.zeros((6, 50, CLASSES), int)),
        r"logits.npy: dtype int64 is not accepted; expected float16, float32, float64",
    ),
    "bits": (
        lambda f: np.save(f / "logits.npy", np.zeros((6, 50, CLASSES), np.uint16)),
        r"logits.npy: dtype uint16 .* uint16 with --dtype bfloat16",
    ),
    "complex": (
        lambda f: np.save(f / "logits.npy", np.zeros((6, 50, CLASSES), complex)),
        r"logits.npy: dtype complex128 is not accepted",
    ),
    "a single number": (
        lambda f: np.save(f / "logits.npy", 1.0),
        r"logits.npy: a single number",
    ),
    "no rows' axis": (
        lambda f: np.save(f / "logits.npy", np.zeros(5)),
        r"logits.npy: shape \(5,\) has no axis of classes",
    ),
    "no classes": (
        lambda f: np.save(f / "logits.npy", np.zeros((6, 50, 0))),
        r"logits.npy: shape \(6, 50, 0\) has no axis of classes",
    ),
    "other rows": (
        lambda f: np.save(f / "targets.npy", np.zeros((50, 6), int)),
        r"targets.npy: shape \(50, 6\) does not fit logits of shape \(6, 50, 40\); expected \(6, 50\)",
    ),
    "floats as targets": (
        lambda f: np.save(f / "targets.npy", np.zeros((6, 50))),
        r"targets.npy: dtype float64 is not accepted for class indices",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files(case, tmp_path, capsys):
    paths = written(tmp_path)
    spoil, says = BAD[case]
    spoil(tmp_path)
    assert main(["score", *paths]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert re.match(rf"python -m xent score: .*{says}", err), err


@pytest.mark.parametrize(
    ("value", "kind"), [(CLASSES, int), (-1, np.int8), (2**63, np.uint64), (-(2**63), np.int64)]
)
def test_a_bad_target_is_named_by_its_position(value, kind, blocks, threads, tmp_path, capsys):
    """In the whole array, not in its block; the first of several."""
    paths = written(tmp_path)
    targets = np.zeros((6, 50), kind)
    targets[4, 17] = targets[5, 0] = value
    np.save(paths[1], targets)
    assert main(["score", *paths]) == 2
    err = capsys.readouterr().err
    assert f"targets[4, 17] = {value} is not a class; expected 0 <= target < 40" in err
    assert err.count("\n") == 1


def test_bad_folders(tmp_path, capsys):
    paths = written(tmp_path)
    folder = tmp_path / "shards"
    folder.mkdir()
    assert main(["score", str(folder), paths[1]]) == 2
    assert "shards: no .npy files" in capsys.readouterr().err
    np.save(folder / "a.npy", np.zeros((3, 4), np.float32))
    np.save(folder / "b.npy", np.zeros((3, 5), np.float32))
    assert main(["score", str(folder), paths[1]]) == 2
    assert "b.npy: float32 of shape (3, 5) does not continue" in capsys.readouterr().err


def test_a_file_that_shrinks_while_it_is_read(tmp_path):
    paths = written(tmp_path)
    stored = arrays.Stored(Path(paths[0]))
    cut_short(tmp_path)
    with pytest.raises(arrays.BadInput, match=r"logits.npy: the file ends before its array does"):
        stored.read(0, np.empty((300, CLASSES), np.float32))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["score"], "FILE, TARGETS"),
        (["score", "a", "b", "--bytes", "0"], "--bytes: 0 is below 1"),
        (["score", "a", "b", "--dtype", "float8"], "--dtype: invalid choice"),
        (["score", "a", "b", "--json", "nowhere/x.json"], "--json: cannot write"),
        (["score", "a", "b", "--plot", "x.txt"], "--plot: "),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_memory_does_not_grow_with_the_file(tmp_path):
    """Two gigabytes of logits, which the file system stores as a hole, in a process of its own."""
    rows, classes = 8192, 65536
    np.lib.format.open_memmap(tmp_path / "logits.npy", "w+", np.float32, (rows, classes)).flush()
    np.save(tmp_path / "targets.npy", np.arange(rows))
    # The peak of this program alone: that of getrusage begins with what its parent has.
    script = """if True:
        import re, sys
        from pathlib import Path
        from xent.cli import main
        code = main(sys.argv[1:])
        print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
        sys.exit(code)"""
    paths = [str(tmp_path / name) for name in ("logits.npy", "targets.npy")]
    done = subprocess.run(
        [sys.executable, "-c", script, "score", *paths],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert float(re.search(r"^Loss +([\d.]+)", done.stdout, re.MULTILINE)[1]) == pytest.approx(
        math.log(classes), rel=1e-6
    )
    assert 1024 * int(done.stdout.splitlines()[-1]) < 300e6
