"""Tables, targets and plots of the strategies benchmark, read from its result alone."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.ticker import MaxNLocator

from benchmarks.plots import COLOURS, panels, save
from benchmarks.quartiles import Quartiles, pairwise_ratios, quartiles
from benchmarks.report_types import Claim, Table
from dear_client.options import Strategy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REFERENCE: Strategy = "sliding"
MOST_WALL = 0.45  # of the reference's wall time

_MARKERS = "osD^vPX*"
_COLOURS = (*COLOURS, "#000000")

Cell = dict[str, Any]


def tables(result: dict[str, Any]) -> list[Table]:
    """The engine's figures; the simulation's where it ran."""
    simulated = result["simulation"]
    return [_engine(result), *([] if "skipped" in simulated else [_simulated(simulated)])]


def claims(result: dict[str, Any]) -> list[Claim]:
    """What was promised for 100 passages."""
    found = []
    for cell in result["cells"]:
        if cell["passages"] != 100:
            continue
        for name, rounds in (("merge2", 2), ("joint", 1)):
            most = max(figures["rounds"] for figures in cell["arms"][name])
            found.append(Claim(f"rounds of {name}, 100 passages", most, "", rounds, False))
        for name in ("merge2", "joint"):
            text = f"wall time of {name} over {REFERENCE}'s, 100 passages, base model"
            found.append(Claim(text, _wall_ratio(cell, name).median, "x", MOST_WALL, False))
    return found


def plot(result: dict[str, Any], folder: Path) -> list[Path]:
    """Wall time by rounds on the engine; quality by windows in simulation."""
    paths = [_plot_wall(result, folder)]
    if "skipped" not in result["simulation"]:
        paths.append(_plot_quality(result["simulation"], folder))
    return paths


def _of(cell: Cell, name: str, key: str) -> list[float]:
    return [figures[key] for figures in cell["arms"][name]]


def _wall_ratio(cell: Cell, name: str) -> Quartiles:
    return quartiles(pairwise_ratios(_of(cell, name, "wall_ms"), _of(cell, REFERENCE, "wall_ms")))


def _engine(result: dict[str, Any]) -> Table:
    rows = []
    for cell in result["cells"]:
        for name in cell["arms"]:
            rows.append(
                (
                    str(cell["passages"]),
                    name,
                    f"{statistics.median(_of(cell, name, 'windows')):.0f}",
                    f"{statistics.median(_of(cell, name, 'rounds')):.0f}",
                    f"{statistics.median(_of(cell, name, 'prompt_tokens')):,.0f}",
                    quartiles(_of(cell, name, "wall_ms")).text(0),
                    "" if name == REFERENCE else _wall_ratio(cell, name).text(2, "x"),
                    _mean(_of(cell, name, "ndcg")),
                )
            )
    note = (
        f"`{result['model']}`, permutation decoding, one caller, window {result['window']}, step "
        f"{result['step']}, top {result['top_n']}. Lists made of held-out words; every strategy ranks the "
        "same lists, each from another place on, so that no window is in the prefix cache. Wall time and "
        "its ratio, list by list: median (quartiles). nDCG@10: mean and standard error over the lists. A "
        "round ends with its slowest window; on two cores windows side by side share what one would have "
        "had alone."
    )
    columns = (
        "passages",
        "strategy",
        "windows",
        "rounds",
        "prompt tokens",
        "wall time, ms",
        f"over {REFERENCE}",
        "nDCG@10",
    )
    return Table("On the engine", note, columns, tuple(rows))


def _mean(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values) / len(values) ** 0.5:.1f}"


def _simulated(simulated: dict[str, Any]) -> Table:
    settings, shape = simulated["settings"], simulated["shape"]
    rows = []
    for name, cost in simulated["costs"].items():
        row = [name, str(cost["calls"]), str(cost["rounds"]), str(cost["shown"])]
        for setting in settings:
            arm = setting["arms"][name]
            row.append(f"{arm['ndcg']:.1f} ± {arm['ndcg_se']:.1f}")
            difference = f"{arm['difference']:+.1f} ± {arm['difference_se']:.1f}"
            row.append("" if name == REFERENCE else difference)
        rows.append(tuple(row))
    noises = "; ".join(
        f"{setting['share']:.0%}: N(0, {setting['sticking_sd']:.2f}), Gumbel({setting['gumbel_scale']:.2f})"
        for setting in settings
    )
    note = (
        f"TREC DL 2019, {simulated['topics']} topics, BM25's top {shape['count']} (nDCG@10 "
        f"{simulated['bm25_ndcg']:.1f} as they stand), window {shape['window']}, step {shape['step']}. "
        "An oracle orders each window by judged relevance plus an error that sticks to the passage, plus one "
        "that is new in every window; the total variance is the same, the share that is new differs "
        f"({noises}). nDCG@10 with its standard error over {simulated['runs']} runs, and the difference to "
        f"{REFERENCE} with its standard error over topics. Unlike a model, this oracle has no trouble with "
        "positions or long windows: one window of 100 is judged too kindly."
    )
    columns = ["strategy", "windows", "rounds", "passages shown"]
    for setting in settings:
        columns += [f"nDCG@10, {setting['share']:.0%} new", f"against {REFERENCE}"]
    return Table("Simulated with a noisy oracle", note, tuple(columns), tuple(rows))


def _plot_wall(result: dict[str, Any], folder: Path) -> Path:
    cells = [cell for cell in result["cells"] if cell["passages"] > result["window"]]
    figure, axes = panels(len(cells), height_in=4.3)
    for panel, cell in zip(axes, cells, strict=True):
        for place, name in enumerate(cell["arms"]):
            wall = quartiles([wall_ms / 1e3 for wall_ms in _of(cell, name, "wall_ms")])
            windows, rounds = (statistics.median(_of(cell, name, key)) for key in ("windows", "rounds"))
            spread = ([wall.median - wall.low], [wall.high - wall.median])
            aside = rounds + 0.08 * (place - 1.5)  # strategies of as many rounds do not hide each other
            _point(panel, place, f"{name} ({windows:.0f} windows)", aside, wall.median, spread)
        panel.set_title(f"{cell['passages']} passages, window {result['window']}, top {result['top_n']}")
        panel.set_xlabel("rounds, one after another")
        panel.set_ylabel("wall time, s (median, quartiles)")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.margins(0.08)
        panel.set_xlim(0)
        panel.set_ylim(0)
        panel.legend(fontsize=8.5, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    return save(figure, folder / "strategies_wall_time.png")


def _plot_quality(simulated: dict[str, Any], folder: Path) -> Path:
    settings, shown = simulated["settings"], [*simulated["costs"]]
    scores = [arm["ndcg"] for setting in settings for arm in setting["arms"].values()]
    most_windows = max(cost["calls"] for cost in simulated["costs"].values())
    figure, axes = panels(len(settings), width_in=4.2, height_in=4.4)
    for panel, setting in zip(axes, settings, strict=True):
        for place, name in enumerate(shown):
            arm, cost = setting["arms"][name], simulated["costs"][name]
            spread = ([1.96 * arm["ndcg_se"]], [1.96 * arm["ndcg_se"]])
            label = f"{name} ({cost['rounds']} {'round' if cost['rounds'] == 1 else 'rounds'})"
            _point(panel, place, label, cost["calls"], arm["ndcg"], spread)
        panel.set_title(f"{setting['share']:.0%} of the error new in every window", fontsize=10)
        panel.set_xlabel("windows ranked")
        panel.set_xlim(0, most_windows * 1.06)
        panel.set_ylim(min(scores) - 1, max(scores) + 1)
    axes[0].set_ylabel("nDCG@10 (95% interval over runs)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8.5)
    return save(figure, folder / "strategies_simulated.png")


def _point(
    panel: Axes, place: int, label: str, x: float, y: float, spread: tuple[list[float], list[float]]
) -> None:
    panel.errorbar(
        [x],
        [y],
        yerr=spread,
        fmt=_MARKERS[place],
        color=_COLOURS[place],
        markersize=8,
        capsize=3,
        elinewidth=1.0,
        label=label,
    )
