"""The plots of a load test, as SVG texts that need nothing from outside."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dear_tools.load.records import Record
from dear_tools.load.summary import Interval, Part

BLUE, ORANGE, RED, GREEN, GREY = "#2563eb", "#d97706", "#dc2626", "#15803d", "#9ca3af"
_MOST_PARTS = 12
_STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e5e7eb",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.edgecolor": GREY,
    "svg.fonttype": "none",
    "svg.hashsalt": "dear",
    "font.family": ["DejaVu Sans", "sans-serif"],
}


def latency_over_time(
    records: Sequence[Record], intervals: Sequence[Interval], limit_s: float, start_s: float
) -> str:
    """Each request at the time it was to be sent; median and p95 of each slice; what failed."""

    def draw(axes: Axes) -> None:
        ok = [record for record in records if record.result == "ok"]
        bad = [record for record in records if record.result != "ok"]
        # Points are drawn as one picture: thousands of SVG circles would make the page heavy.
        axes.plot(
            [record.intended_s - start_s for record in ok],
            [record.latency_s * 1e3 for record in ok],
            ".", color=BLUE, alpha=0.25, markersize=3, rasterized=True, label="request",
        )  # fmt: skip
        if bad:
            axes.plot(
                [record.intended_s - start_s for record in bad],
                [max(record.latency_s, 1e-4) * 1e3 for record in bad],
                "x", color=RED, alpha=0.6, markersize=4, rasterized=True, label="refused or failed",
            )  # fmt: skip
        seen = [one for one in intervals if one.p50_ms is not None]
        width_s = intervals[1].start_s if len(intervals) > 1 else 1.0
        middle = [one.start_s + width_s / 2 for one in seen]
        axes.plot(middle, [one.p95_ms or 0 for one in seen], color=ORANGE, label="p95 of answers")
        axes.plot(middle, [one.p50_ms or 0 for one in seen], color="#1e3a8a", label="median of answers")
        _limit(axes, limit_s)
        axes.set(xlabel="time, s", ylabel="latency, ms", yscale="log")
        axes.legend(loc="upper left", ncols=2, frameon=False)

    return _svg(draw)


def distribution(records: Sequence[Record], limit_s: float) -> str:
    """Share of valid answers within a time, over all and for each tenant."""

    def draw(axes: Axes) -> None:
        by_tenant: dict[str, list[float]] = {}
        for record in records:
            if record.result == "ok":
                by_tenant.setdefault(record.tenant, []).append(record.latency_s * 1e3)
        if len(by_tenant) > 1:
            for name, values in sorted(by_tenant.items(), key=lambda one: -len(one[1]))[:_MOST_PARTS]:
                axes.plot(np.sort(values), _shares(values), linewidth=0.9, alpha=0.7, label=name)
        every = [value for values in by_tenant.values() for value in values]
        axes.plot(np.sort(every), _shares(every), color="black", linewidth=1.6, label="all")
        _limit(axes, limit_s, vertical=True)
        axes.set(xlabel="latency, ms", ylabel="share of answers", xscale="log", ylim=(0, 1.01))
        axes.legend(loc="lower right", frameon=False)

    return _svg(draw)


def throughput(intervals: Sequence[Interval]) -> str:
    """What was offered and what was answered, per second, over time."""

    def draw(axes: Axes) -> None:
        times = [one.start_s for one in intervals]
        axes.step(times, [one.offered_per_s for one in intervals], where="post", color=GREY, label="sent")
        axes.step(times, [one.ok_per_s for one in intervals], where="post", color=BLUE, label="answered")
        if any(one.errors_per_s for one in intervals):
            errors = [one.errors_per_s for one in intervals]
            axes.step(times, errors, where="post", color=RED, label="refused or failed")
        axes.set(xlabel="time, s", ylabel="requests a second", ylim=(0, None))
        axes.legend(frameon=False)

    return _svg(draw)


def throughput_against_latency(
    points: Sequence[tuple[float, float, float, bool]], limit_s: float, *, per: str
) -> str:
    """Latency as the load rises.

    Args:
        points: answers a second, median and p95 in milliseconds, and whether the objective held.
        per: what a point is of, such as ``rate tried``.
    """

    def draw(axes: Axes) -> None:
        ordered = sorted(points)
        rates = [point[0] for point in ordered]
        axes.plot(rates, [point[2] for point in ordered], color=ORANGE, linewidth=0.8)
        axes.plot(rates, [point[1] for point in ordered], "o-", color=BLUE, linewidth=0.8, label="median")
        for holds, color, label in (
            (True, GREEN, "p95, objective held"),
            (False, RED, "p95, objective missed"),
        ):
            some = [point for point in ordered if point[3] is holds]
            if some:
                axes.plot([one[0] for one in some], [one[2] for one in some], "s", color=color, label=label)
        _limit(axes, limit_s)
        axes.set(xlabel=f"answers a second ({per})", ylabel="latency, ms", yscale="log")
        axes.legend(frameon=False)

    return _svg(draw)


def by_part(parts: Sequence[Part], limit_s: float) -> str:
    """Median, p95 and p99 of each tenant or model, those with most requests first."""
    shown = [part for part in parts if part.latency is not None][:_MOST_PARTS]

    def draw(axes: Axes) -> None:
        places = np.arange(len(shown))
        for number, (percent, color) in enumerate(((50, BLUE), (95, ORANGE), (99, RED))):
            heights = [getattr(part.latency, f"p{percent}_ms") for part in shown]
            axes.bar(places + (number - 1) * 0.27, heights, 0.25, color=color, label=f"p{percent}")
        _limit(axes, limit_s)
        axes.set_xticks(places, [part.name for part in shown], rotation=20 if len(shown) > 5 else 0)
        axes.set(ylabel="latency, ms")
        axes.legend(frameon=False, ncols=3)

    return _svg(draw)


def _shares(values: Sequence[float]) -> Sequence[float]:
    return [(number + 1) / len(values) for number in range(len(values))]


def _limit(axes: Axes, limit_s: float, *, vertical: bool = False) -> None:
    line = axes.axvline if vertical else axes.axhline
    line(limit_s * 1e3, color=RED, linestyle="--", linewidth=0.8, label="objective")


def _svg(draw: Callable[[Axes], None]) -> str:
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 3.4), dpi=110, layout="constrained")
        draw(figure.add_subplot())
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', "", svg[svg.index("<svg") :], count=1)
