"""How every plot looks: one palette that colour-blind readers can tell apart, units on every axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib

from benchmarks.quartiles import Quartiles

matplotlib.use("Agg")  # before pyplot: there may be no display

from matplotlib import pyplot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, without its yellow, which is too light for bars on white.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#999999")

_STYLE: dict[Any, Any] = {
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
    "figure.dpi": 120.0,
}
_GROUP_WIDTH = 0.82


def panels(
    count: int, width_in: float = 5.4, height_in: float = 3.9, columns: int | None = None
) -> tuple[Figure, list[Axes]]:
    """A figure of ``count`` panels, each so many inches wide: side by side, or in rows of ``columns``."""
    pyplot.rcParams.update(_STYLE)
    columns = min(columns or count, count)
    rows = -(-count // columns)
    size = (width_in * columns, height_in * rows)
    figure, grid = pyplot.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    axes = list(grid.flat)
    for empty in axes[count:]:
        empty.remove()
    return figure, axes[:count]


def grouped_bars(
    axes: Axes,
    groups: Sequence[str],
    series: Mapping[str, Sequence[Quartiles | None]],
    digits: int = 1,
    colours: Sequence[str] = COLOURS,
) -> None:
    """Bars of medians with the quartiles as error bars and the median written above.

    Args:
        axes: the panel.
        groups: names along the x axis.
        series: name in the legend -> one figure a group; None where there is none.
        digits: decimals of the written medians.
        colours: one a series.
    """
    width = _GROUP_WIDTH / len(series)
    # Bars of a group stand side by side around its name, without gaps for what was not measured.
    present = [
        [name for name, figures in series.items() if figures[group] is not None]
        for group in range(len(groups))
    ]
    for place, (name, figures) in enumerate(series.items()):
        known = [
            (group + (present[group].index(name) - (len(present[group]) - 1) / 2) * width, one)
            for group, one in enumerate(figures)
            if one is not None
        ]
        heights = [one.median for _, one in known]
        below = [one.median - one.low for _, one in known]
        above = [one.high - one.median for _, one in known]
        axes.bar(
            [where for where, _ in known],
            heights,
            width * 0.92,
            label=name,
            color=colours[place],
            yerr=(below, above),
            error_kw={"elinewidth": 1.0, "capsize": 2.0, "ecolor": "#333333"},
        )
        for where, one in known:
            axes.annotate(
                f"{one.median:.{digits}f}",
                (where, one.high),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=7.0,
            )
    _name_groups(axes, groups)
    axes.margins(y=0.2)


def stacked_bars(
    axes: Axes,
    groups: Sequence[str],
    parts: Mapping[str, Sequence[float]],
    digits: int = 0,
    colours: Sequence[str] = COLOURS,
) -> None:
    """Bars whose parts add up; the whole is written above.

    Args:
        axes: the panel.
        groups: names along the x axis.
        parts: name in the legend -> one figure a group, from the bottom up.
        digits: decimals of the written sums.
        colours: one a part.
    """
    tops = [0.0] * len(groups)
    for place, (name, figures) in enumerate(parts.items()):
        axes.bar(range(len(groups)), figures, 0.66, bottom=tops, label=name, color=colours[place])
        tops = [top + figure for top, figure in zip(tops, figures, strict=True)]
    for where, top in enumerate(tops):
        axes.annotate(
            f"{top:.{digits}f}",
            (where, top),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=8.5,
        )
    _name_groups(axes, groups)
    axes.margins(y=0.2)


def reference_line(axes: Axes, value: float, text: str) -> None:
    """A dashed line at ``value``, named at its right end, outside the panel."""
    axes.axhline(value, color="#333333", linewidth=1.0, linestyle="--")
    axes.annotate(
        text,
        (1.0, value),
        xycoords=("axes fraction", "data"),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
    )


def save(figure: Figure, path: Path) -> Path:
    """Write the PNG and free the figure."""
    figure.savefig(path)
    pyplot.close(figure)
    return path


def _name_groups(axes: Axes, groups: Sequence[str]) -> None:
    axes.set_xticks(range(len(groups)), groups)
    axes.set_xlim(-0.55, len(groups) - 0.45)
    axes.tick_params(axis="x", length=0)
