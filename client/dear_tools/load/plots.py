"""The plots of a load test, as SVG texts that load nothing and use the page's colours."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from dear_tools.load.records import Record
from dear_tools.load.summary import Interval, Part

BLUE, ORANGE, RED, GREEN, GREY = "#3b82f6", "#d97706", "#ef4444", "#16a34a", "#9ca3af"
_INK, _LINES = "#010203", "#040506"
"""What stands for the page's own colours, which may be light or dark."""

_MOST_PARTS = 12
_MOST_CHARS = 28
_WIDTH_IN, _HEIGHT_IN = 6.0, 3.3
_STYLE: Any = {
    "font.size": 10,
    "font.family": ["DejaVu Sans", "sans-serif"],
    "text.parse_math": False,  # a $ in a tenant's name is no formula
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), _INK),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none"),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": _LINES,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.columnspacing": 1.0,
    "legend.handlelength": 1.4,
    "svg.fonttype": "none",
    "svg.hashsalt": "dear",
}


def latency_over_time(
    records: Sequence[Record], intervals: Sequence[Interval], limit_s: float, start_s: float
) -> str:
    """Each answer at its scheduled time; median and p95 of each slice; below, the failures."""

    def draw(axes: Axes) -> None:
        ok = [record for record in records if record.result == "ok"]
        bad = [record for record in records if record.result != "ok"]
        # Points are drawn as one picture: thousands of SVG circles would make the page heavy.
        axes.plot(
            [record.intended_s - start_s for record in ok],
            [record.latency_s * 1e3 for record in ok],
            ".", color=BLUE, alpha=0.4, markersize=3.5, rasterized=True, label="answer",
        )  # fmt: skip
        seen = [one for one in intervals if one.p50_ms is not None]
        middle = [one.start_s + _width_s(intervals) / 2 for one in seen]
        axes.plot(middle, [one.p50_ms or 0 for one in seen], color=GREEN, label="median")
        axes.plot(middle, [one.p95_ms or 0 for one in seen], color=ORANGE, label="p95")
        _limit(axes, limit_s)
        axes.set(xlabel="time, s", ylabel="latency, ms")
        _logarithmic(axes, axes.yaxis, [record.latency_s * 1e3 for record in ok] + [limit_s * 1e3])
        if bad:
            axes.plot(
                [record.intended_s - start_s for record in bad], [0.03] * len(bad),
                "x", color=RED, alpha=0.7, markersize=4, rasterized=True, label="refused or failed",
                transform=axes.get_xaxis_transform(),
            )  # fmt: skip

    return _svg(draw)


def distribution(records: Sequence[Record], limit_s: float) -> str:
    """Share of valid answers within a time, over all and for each tenant."""

    def draw(axes: Axes) -> None:
        by_tenant: dict[str, list[float]] = {}
        for record in records:
            if record.result == "ok":
                by_tenant.setdefault(record.tenant, []).append(record.latency_s * 1e3)
        every = [value for values in by_tenant.values() for value in values]
        axes.step(*_shares(every), where="post", color=_INK, linewidth=1.8, label="all")
        if len(by_tenant) > 1:
            for name, values in sorted(by_tenant.items(), key=lambda one: -len(one[1]))[:_MOST_PARTS]:
                axes.step(*_shares(values), where="post", linewidth=1.0, label=_short(name))
        _limit(axes, limit_s, vertical=True)
        axes.set(xlabel="latency, ms", ylabel="share of answers", ylim=(0, 1.01))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
        _logarithmic(axes, axes.xaxis, [*every, limit_s * 1e3])

    return _svg(draw)


def throughput(intervals: Sequence[Interval]) -> str:
    """What was offered and what was answered, per second, over time."""

    def draw(axes: Axes) -> None:
        edges = [one.start_s for one in intervals] + [len(intervals) * _width_s(intervals)]

        def steps(values: list[float], color: str, label: str) -> None:
            axes.stairs(values, edges, baseline=None, color=color, label=label, linewidth=1.5)

        steps([one.offered_per_s for one in intervals], GREY, "sent")
        steps([one.ok_per_s for one in intervals], BLUE, "answered")
        if any(one.errors_per_s for one in intervals):
            steps([one.errors_per_s for one in intervals], RED, "refused or failed")
        axes.set(xlabel="time, s", ylabel="requests/s", ylim=(0, None))

    return _svg(draw)


def throughput_against_latency(
    points: Sequence[tuple[float, float, float, bool]], limit_s: float, *, by_rate: bool
) -> str:
    """Latency as the load rises.

    Args:
        points: answers/s, median and p95 in milliseconds, and whether the objective held.
        by_rate: they are of rates tried, in their order; else of slices of one run.
    """

    def draw(axes: Axes) -> None:
        rates = [point[0] for point in points]
        if by_rate:
            axes.plot(rates, [point[2] for point in points], color=ORANGE, linewidth=1.0)
        axes.plot(
            rates, [point[1] for point in points], "o-" if by_rate else "o", color=BLUE, linewidth=1.0,
            markersize=5 if by_rate else 4, alpha=1.0 if by_rate else 0.6, label="median",
        )  # fmt: skip
        if not by_rate:
            values = [point[2] for point in points]
            axes.plot(rates, values, "s", color=ORANGE, markersize=4, alpha=0.6, label="p95")
        for holds, color, label in ((True, GREEN, "p95, held"), (False, RED, "p95, missed")):
            some = [point for point in points if by_rate and point[3] is holds]
            if some:
                axes.plot([one[0] for one in some], [one[2] for one in some], "s", color=color, label=label)
        _limit(axes, limit_s)
        unit = "answers/s at each rate" if by_rate else "answers/s within the run"
        axes.set(xlabel=unit, ylabel="latency, ms", xlim=(0, 1.05 * max(rates) or 1))
        _logarithmic(axes, axes.yaxis, [value for point in points for value in point[1:3]] + [limit_s * 1e3])

    return _svg(draw)


def by_part(parts: Sequence[Part], limit_s: float) -> str:
    """Median, p95 and p99 of each tenant or model, those with most requests first."""
    shown = [part for part in parts if part.latency is not None][:_MOST_PARTS]

    def draw(axes: Axes) -> None:
        places = range(len(shown))
        found = [[getattr(part.latency, f"p{percent}_ms") for part in shown] for percent in (50, 95, 99)]
        axes.hlines(places, found[0], found[2], color=GREY, linewidth=1.0)
        for values, color, label in zip(found, (BLUE, ORANGE, RED), ("median", "p95", "p99"), strict=True):
            axes.plot(values, places, "o", color=color, label=label)
        _limit(axes, limit_s, vertical=True)
        axes.set_yticks(places, [_short(part.name or "(default)") for part in shown])
        axes.set(xlabel="latency, ms", ylim=(len(shown) - 0.5, -0.5))
        _logarithmic(axes, axes.xaxis, [value for values in found for value in values] + [limit_s * 1e3])

    return _svg(draw, max(_HEIGHT_IN, 1.2 + 0.28 * len(shown)))


def _width_s(intervals: Sequence[Interval]) -> float:
    return intervals[1].start_s if len(intervals) > 1 else 1.0


def _shares(values: Sequence[float]) -> tuple[Any, Any]:
    """Values in their order, and the share of them up to each."""
    return np.sort([0.0, *values]), np.arange(len(values) + 1) / len(values)


def _short(name: str) -> str:
    """A name for a legend, where matplotlib leaves out what begins with _."""
    short = name if len(name) <= _MOST_CHARS else f"{name[: _MOST_CHARS - 1]}…"
    return f" {short}" if short.startswith("_") else short


def _limit(axes: Axes, limit_s: float, *, vertical: bool = False) -> None:
    line = axes.axvline if vertical else axes.axhline
    line(limit_s * 1e3, color=RED, linestyle="--", linewidth=1.0, label="objective")


def _logarithmic(axes: Axes, axis: Axis, values: Sequence[float]) -> None:
    """A logarithmic axis around values, from one round number to another, with figures that people read."""
    low, high = max(min(values), 1e-3), max(values)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    heads = (1,) if math.log10(high / low) > 3 else (1, 2, 5)
    ticks = [head * 10.0**exponent for exponent in exponents for head in heads]
    within = (max(tick for tick in ticks if tick <= low), min(tick for tick in ticks if tick >= high))
    is_x = axis is axes.xaxis
    (axes.set_xscale if is_x else axes.set_yscale)("log")
    # A little room, so that a value on the edge is whole.
    (axes.set_xlim if is_x else axes.set_ylim)(within[0] / 1.1, within[1] * 1.1)
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def _svg(draw: Callable[[Axes], None], height_in: float = _HEIGHT_IN) -> str:
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # The page's own font has the letters that matplotlib's has not; text stays text.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure = Figure(figsize=(_WIDTH_IN, height_in), dpi=144, layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        handles, labels = axes.get_legend_handles_labels()
        widest_in = 0.45 + 0.08 * max(map(len, labels))
        columns = max(1, min(len(labels), int(_WIDTH_IN / widest_in)))
        figure.legend(handles, labels, loc="outside upper left", ncols=columns)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', "", svg[svg.index("<svg") :], count=1)
    return svg.replace(_INK, "currentColor").replace(_LINES, "var(--line)")
