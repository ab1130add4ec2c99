"""The figure of ``--plot``: speed-up and bandwidth of each case, curves over the classes and over the threads."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from math import prod
from pathlib import Path
from typing import Any

from xent.cli.bench.measure import Comparison, MemorySpeed
from xent.cli.bench.rivals import RIVALS
from xent.cli.bench.table import SETTINGS, count, setting, varying
from xent.cli.bench.workloads import ON_REQUEST, TITLES
from xent.cli.info import cpu

COLOURS = {
    "xent": "#08519c",
    "numpy": "#e08214",
    "scipy": "#807dba",
    "sklearn": "#41ab5d",
    "torch": "#cb181d",
    "jax": "#737373",
    "torch-fused": "#ef3b2c",
    "chunked": "#fb6a4a",
    "torchmetrics": "#fcbba1",
    "numkong": "#8c6d31",
    "dask": "#e7969c",
}
MARKERS = "osd^vP*X<"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "xent",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "x",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "ytick.major.size": 0,
}
# In inches: of the figure, of one bar, of all around the bars, and of a row of curves.
WIDTH, BAR, MARGIN, CURVES = 10.5, 0.21, 1.6, 3.6
#: Line styles of the memory's two speeds.
SPEEDS = {"read": "--", "copy": ":"}


def draw(comparisons: Sequence[Comparison], memory: Sequence[MemorySpeed], path: Path) -> None:
    """Draw what was measured; cases on request are points of curves, the others bars."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    bars: list[Comparison | str] = []  # a string is the heading of a workload
    curves = {}
    for workload, members in groupby(comparisons, key=lambda one: one.case.workload):
        if workload in ON_REQUEST:
            curves[workload] = list(members)
        else:
            bars += [workload, *members]
    scaling = len({one.threads for one in comparisons}) > 2
    heights = [len(bars) * BAR + MARGIN] * bool(bars) + [CURVES] * (len(curves) + scaling)
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, sum(heights) + 0.3), layout="constrained")
        figure.suptitle(_title(comparisons))
        parts = figure.subfigures(len(heights), height_ratios=heights, squeeze=False)[:, 0]
        if bars:
            _draw_bars(parts[0], bars, varying(comparisons), memory)
        for part, (workload, members_) in zip(parts[bool(bars) :], curves.items(), strict=False):
            _draw_curves(part, TITLES[workload], members_, memory)
        if scaling:
            _draw_scaling(parts[-1], comparisons, memory)
        metadata = {"Date": None} if path.suffix.lower() == ".svg" else None
        figure.savefig(path, dpi=150, metadata=metadata)


def _title(comparisons: Sequence[Comparison]) -> str:
    same = [name for name in SETTINGS if name not in varying(comparisons)]
    machine = ", ".join(filter(None, [cpu(), setting(comparisons[0], same)]))
    return f"xent and its rivals on {machine}"


def _plain_ticks(axis: Any) -> None:
    """Ticks at 1, 2, 5, 10, …, or at powers of ten alone where those would be too many."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = axis.get_view_interval()
    subs = (1, 2, 5) if high < 1500 * low else (1,)
    axis.set_major_locator(LogLocator(subs=subs, numticks=20))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_locator(NullLocator())


def _beside(axes: Any, text: str, at: tuple[float, float], offset: int, **style: Any) -> None:
    """Write a text next to a point."""
    axes.annotate(
        text,
        at,
        xytext=(offset, 0),
        textcoords="offset points",
        va="center",
        annotation_clip=False,
        **style,
    )


def _draw_bars(
    figure: Any,
    rows: Sequence[Comparison | str],
    settings: Sequence[str],
    memory: Sequence[MemorySpeed],
) -> None:
    """Speed-up over the fastest rival, and bandwidth beside that of the memory."""
    ratios, speeds = figure.subplots(1, 2, sharey=True, width_ratios=(1.1, 1))
    labels: dict[int, str] = {}
    edge = ("axes fraction", "data")
    for y, row in enumerate(rows):
        if isinstance(row, str):
            _beside(ratios, row, (0, y), -4, xycoords=edge, ha="right", weight="bold")
            continue
        labels[y] = ", ".join(filter(None, [row.case.name, setting(row, settings)]))
        _draw_bar(ratios, speeds, y, row)
        if row.memory_share:
            share = f"{row.memory_share:.0%} of {row.yardstick}"
            _beside(speeds, share, (1, y), 4, xycoords=edge, fontsize=8)
    for one in memory:
        prefix = f"{count(one.threads)}: " if "threads" in settings else ""
        for name, style in SPEEDS.items():
            speed = getattr(one, name) / 1e9
            label = f"{prefix}memory, {name}: {speed:.0f} GB/s"
            speeds.axvline(speed, color="black", linestyle=style, linewidth=1, label=label)
    for axes in (ratios, speeds):
        axes.set_xscale("log")
        axes.margins(x=0.1)
        _plain_ticks(axes.xaxis)
    ratios.axvline(1, color="black", linewidth=1)
    ratios.set_ylim(len(rows) - 0.4, -0.6)
    ratios.set_yticks(list(labels), list(labels.values()))
    ratios.set_xlabel("time of the fastest rival / time of xent")
    speeds.set_xlabel("GB/s: bytes that must move / time")
    _draw_legend(figure, rows, speeds.get_legend_handles_labels()[0])


def _draw_bar(ratios: Any, speeds: Any, y: int, one: Comparison) -> None:
    rival, ratio, speed = one.fastest_rival, one.speedup, one.bandwidth / 1e9
    if rival and ratio:
        colour = COLOURS[rival]
        ratios.barh(y, ratio - 1, left=1, height=0.7, color=colour)
        _beside(ratios, f"{ratio:.1f}", (max(ratio, 1), y), 3, fontsize=8)
        speeds.plot([speed / ratio, speed], [y, y], color=colour, linewidth=1, zorder=1)
        speeds.plot(speed / ratio, y, "o", color=colour, markerfacecolor="white", markersize=4.5)
    speeds.plot(speed, y, "o", color=COLOURS["xent"], markersize=5.5)


def _draw_legend(figure: Any, rows: Sequence[Comparison | str], lines: list[Any]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    fastest = {row.fastest_rival for row in rows if isinstance(row, Comparison)}
    rivals = [Patch(color=COLOURS[n], label=f"fastest: {n}") for n in RIVALS if n in fastest]
    point: dict[str, Any] = {"marker": "o", "linestyle": ""}
    points = [
        Line2D([], [], color=COLOURS["xent"], label="xent", **point),
        Line2D([], [], color="black", fillstyle="none", label="fastest rival", **point),
    ]
    figure.legend(handles=[*rivals, *points, *lines], loc="outside lower center", ncols=4)


def _draw_curves(
    figure: Any, title: str, comparisons: Sequence[Comparison], memory: Sequence[MemorySpeed]
) -> None:
    """Time for each logit over the number of classes, of the loss and with its gradient."""
    settings = varying(comparisons)
    panels = figure.subplots(1, 2, sharey=True)
    figure.suptitle(title, fontsize=10, weight="bold")
    for axes, gradient in zip(panels, (False, True), strict=True):
        lines: dict[tuple[str, str], list[tuple[int, float]]] = {}
        for one in comparisons:
            for name, seconds in one.seconds.items():
                if one.case.gradient == gradient:
                    nanoseconds = seconds / prod(one.case.shape) * 1e9
                    line = lines.setdefault((setting(one, settings), name), [])
                    line.append((one.case.classes, nanoseconds))
        markers = dict(zip(dict.fromkeys(label for label, _ in lines), MARKERS * 4, strict=False))
        for (label, name), points in lines.items():
            axes.plot(
                *zip(*points, strict=True),
                color=COLOURS[name],
                linewidth=2 if name == "xent" else 1,
                marker=markers[label],
                markersize=4,
                label=", ".join(filter(None, [name, label])),
            )
        for speed in memory:
            floor = 8 / speed.copy if gradient else 4 / speed.read
            prefix = f"{count(speed.threads)}: " if "threads" in settings else ""
            label = f"{prefix}memory, {'copied' if gradient else 'read'}"
            style = SPEEDS["copy" if gradient else "read"]
            axes.axhline(floor * 1e9, color="black", linestyle=style, linewidth=1, label=label)
        axes.set(xscale="log", yscale="log", xlabel="classes")
        axes.set_title("loss and gradient" if gradient else "loss", fontsize=9)
        axes.grid(alpha=STYLE["grid.alpha"], axis="both")
        _plain_ticks(axes.xaxis)
        _plain_ticks(axes.yaxis)
    panels[0].set_ylabel("ns for each logit")
    handles = [handle for axes in panels for handle in axes.get_legend_handles_labels()[0]]
    unique = {handle.get_label(): handle for handle in handles}
    figure.legend(handles=list(unique.values()), loc="outside right upper")


def _draw_scaling(
    figure: Any, comparisons: Sequence[Comparison], memory: Sequence[MemorySpeed]
) -> None:
    """How many times as fast each case, and the memory, become with more threads."""
    axes = figure.subplots(1, 1)
    figure.suptitle("threads", fontsize=10, weight="bold")
    settings = [name for name in varying(comparisons) if name != "threads"]
    lines: dict[str, dict[int, float]] = {}
    for one in comparisons:
        label = ", ".join(filter(None, [one.case.name, setting(one, settings)]))
        lines.setdefault(label, {})[one.threads] = 1 / one.seconds["xent"]
    colours = [f"C{i}" for i in range(10)]
    for i, (label, speeds) in enumerate(lines.items()):
        style = {"color": colours[i % 10], "marker": MARKERS[i // 10 % len(MARKERS)]}
        _draw_speeds(axes, speeds, label=label, markersize=4, **style)
    for name, dashes in SPEEDS.items():
        speeds = {one.threads: getattr(one, name) for one in memory}
        _draw_speeds(axes, speeds, label=f"memory, {name}", color="black", linestyle=dashes)
    counts = sorted({one.threads for one in comparisons})
    fewest, most = counts[0], counts[-1]
    axes.plot([fewest, most], [1, most / fewest], color="black", alpha=0.3, label="in proportion")
    axes.set(xscale="log", yscale="log", xlabel="threads")
    axes.set_ylabel(f"speed / speed of {count(fewest)}")
    axes.grid(alpha=STYLE["grid.alpha"], axis="both")
    _plain_ticks(axes.yaxis)
    axes.set_xticks(counts, counts)
    axes.minorticks_off()
    figure.legend(loc="outside right upper", ncols=1 + len(lines) // 16)


def _draw_speeds(axes: Any, speeds: dict[int, float], **style: Any) -> None:
    """Speeds over threads, of the fewest threads 1."""
    threads = sorted(speeds)
    axes.plot(threads, [speeds[n] / speeds[threads[0]] for n in threads], linewidth=1, **style)
