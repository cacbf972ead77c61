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
IDLE = "joint, 3 looks"
MOST_WALL = 0.45  # of the reference's wall time
MORE_LISTS = 1.3  # than auto that knows no load

_MARKERS = "osD^vPX*<>hpd8H"
_COLOURS = (*COLOURS, "#000000", *COLOURS)

Cell = dict[str, Any]


def tables(result: dict[str, Any]) -> list[Table]:
    """The engine's figures; the simulation's where it ran."""
    simulated, found = result["simulation"], [_engine(result)]
    if "skipped" not in simulated:
        found += [_simulated(simulated), _sureness(simulated["sureness"])]
    return [*found, _busy(result["busy"], result["saturated"])]


def claims(result: dict[str, Any]) -> list[Claim]:
    """What was promised for 100 passages."""
    found = [*_simulated_claims(result["simulation"]), *_busy_claims(result)]
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
    paths = [_plot_wall(result, folder), _plot_busy(result["busy"], folder)]
    if "skipped" not in result["simulation"]:
        paths.append(_plot_quality(result["simulation"], folder))
        paths.append(_plot_sureness(result["simulation"]["sureness"], folder))
    return paths


def _simulated_claims(simulated: dict[str, Any]) -> list[Claim]:
    """The worst share of the noise counts."""
    if "skipped" in simulated:
        return []
    costs = simulated["costs"]

    def worst(name: str, key: str = "difference", over: str | None = None) -> float:
        arms = [setting["arms"][name] for setting in simulated["settings"]]
        return float(min(arm[key] / (arm[over] if over else 1.0) for arm in arms))

    blitz, deepen = (costs[name]["tokens"] / costs[REFERENCE]["tokens"] for name in ("blitz", "deepen"))
    busy = f"nDCG@10 of blitz with three looks, for busy engines, against {IDLE}, simulated"
    in_errors = f"nDCG@10 of deepen against {REFERENCE}, standard errors, simulated"
    return [
        Claim(f"prompt tokens of blitz over {REFERENCE}'s, simulated", blitz, "x", 0.8, False),
        Claim(f"nDCG@10 of blitz against {REFERENCE}, simulated", worst("blitz"), " points", -1.0),
        Claim(busy, worst("blitz, 3 looks", "to_idle"), " points", -1.0),
        Claim(f"prompt tokens of deepen over {REFERENCE}'s, simulated", deepen, "x", 1.0, False),
        Claim(in_errors, worst("deepen", over="difference_se"), "", -1.0),
    ]


def _busy_claims(result: dict[str, Any]) -> list[Claim]:
    last, measured = result["busy"]["callers"][-1], result["saturated"]
    text = "throughput of auto by load over auto without, lists of 100"
    simulated = last["by_load"]["lists_a_second"] / last["today"]["lists_a_second"]
    return [
        Claim(f"{text}, simulated", simulated, "x", MORE_LISTS),
        Claim(f"{text}, on the engine", _gain(measured).median, "x", MORE_LISTS),
    ]


def _gain(measured: dict[str, Any]) -> Quartiles:
    by_load, today = ([one["lists_a_second"] for one in measured[name]] for name in ("by_load", "today"))
    return quartiles(pairwise_ratios(by_load, today))


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
        tokens = cost["tokens"] / simulated["costs"][REFERENCE]["tokens"]
        row = [name, *(_count(cost, key) for key in ("calls", "rounds")), f"{cost['shown']:.0f}"]
        row.append(f"{tokens:.2f}x")
        for setting in settings:
            arm = setting["arms"][name]
            row.append(f"{arm['ndcg']:.1f} ± {arm['ndcg_se']:.1f}")
            difference = f"{arm['difference']:+.1f} ± {arm['difference_se']:.1f}"
            row.append("" if name == REFERENCE else difference)
        worst = min((setting["arms"][name] for setting in settings), key=lambda arm: arm["to_idle"])
        row.append("" if name == IDLE else f"{worst['to_idle']:+.1f} ± {worst['to_idle_se']:.1f}")
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
        f"{REFERENCE} with its standard error over topics. Windows and rounds are means, with the most of "
        "one list where lists differ; prompt tokens are those of lists of this length. The last three arms "
        "have pivots (benchmarks/pivots.py), and are not served. Unlike a model, this oracle has no trouble "
        "with positions or long windows: one window of 100 is judged too kindly."
    )
    columns = ["strategy", "windows", "rounds", "passages shown", f"prompt tokens over {REFERENCE}'s"]
    for setting in settings:
        columns += [f"nDCG@10, {setting['share']:.0%} new", f"against {REFERENCE}"]
    columns.append(f"against {IDLE}, at worst")
    return Table("Simulated with a noisy oracle", note, tuple(columns), tuple(rows))


def _count(cost: dict[str, float], key: str) -> str:
    mean, most = cost[key], cost[f"most_{key}"]
    return f"{mean:.0f}" if mean == most else f"{mean:.1f} (at most {most:.0f})"


def _sureness(found: dict[str, Any]) -> Table:
    rows = []
    for name, arm in found["arms"].items():
        proved = arm["certified_right"]
        rows.append(
            (
                name,
                f"{arm['pairs']:,}",
                f"{arm['right']:.1%}",
                f"{arm['before']['ece']:.3f}",
                f"{arm['after']['ece']:.3f}",
                f"{arm['before']['brier']:.3f}",
                f"{arm['after']['brier']:.3f}",
                f"{arm['certified_places']:.1f}",
                "" if proved is None else f"{proved:.1%}",
            )
        )
    note = (
        f"The same lists and oracle, {found['topics']} topics, {found['runs']} runs, the first ten ranks. A "
        "pair is two neighbours of the order with different grades. The expected calibration error (ten bins "
        "of as many pairs) and the Brier score of the confidence as it comes, and mapped by a sigmoid that "
        "was fitted on the other half of the topics. Certified places: how many of the first ten the windows "
        "prove; and how many pairs whose first place is certified are in the right order. The oracle does "
        "not know that part of its error sticks to passages, so it is too sure of itself, as models are."
    )
    columns = (
        "strategy",
        "pairs",
        "in the right order",
        "calibration error",
        "mapped",
        "Brier",
        "mapped ",
        "certified places",
        "certified and right",
    )
    return Table("How sure, simulated", note, columns, tuple(rows))


def _busy(simulated: dict[str, Any], measured: dict[str, Any]) -> Table:
    rows = []
    for one in simulated["callers"]:
        by_load, today = one["by_load"]["lists_a_second"], one["today"]["lists_a_second"]
        rows.append(
            (
                "simulated",
                str(one["callers"]),
                f"{today:.2f}",
                f"{by_load:.2f}",
                f"{by_load / today:.2f}x",
                f"{one['by_load']['blitz']:.0%}",
                "",
                "",
            )
        )
    lists, saving, ndcg = (
        {name: [one[key] for one in measured[name]] for name in ("today", "by_load")}
        for key in ("lists_a_second", "blitz", "ndcg")
    )
    rows.append(
        (
            f"`{measured['model']}`",
            str(measured["callers"]),
            quartiles(lists["today"]).text(2),
            quartiles(lists["by_load"]).text(2),
            _gain(measured).text(2, "x"),
            f"{statistics.mean(saving['by_load']):.0%}",
            _mean(ndcg["today"]),
            _mean(ndcg["by_load"]),
        )
    )
    note = (
        "Lists of 100, top 10, callers that send one after another. Without load `auto` takes `joint`; by "
        f"load it takes `blitz` while more than {simulated['busy_s']:.0f} s of work are ahead. Simulated: "
        f"the policy before an engine of {simulated['tokens_a_second']:,} prompt tokens a second. On the "
        f"engine: blocks of {measured['lists']} lists in turn, the same lists; without load means `joint` "
        "asked for by name."
    )
    columns = (
        "engine",
        "callers",
        "lists/s, without load",
        "by load",
        "gain",
        "of them blitz",
        "nDCG@10, without",
        "nDCG@10, by load",
    )
    return Table("Auto by load", note, columns, tuple(rows))


def _plot_busy(simulated: dict[str, Any], folder: Path) -> Path:
    figure, (panel,) = panels(1)
    callers = [one["callers"] for one in simulated["callers"]]
    for place, (key, label) in enumerate((("today", "joint always"), ("by_load", "by load"))):
        rates = [one[key]["lists_a_second"] for one in simulated["callers"]]
        panel.plot(callers, rates, marker=_MARKERS[place], color=_COLOURS[place], label=label)
    panel.set_xscale("log", base=2)
    panel.set_xlabel("callers at the same time")
    panel.set_ylabel("lists of 100 a second")
    panel.set_title(f"auto, simulated: {simulated['tokens_a_second']:,} prompt tokens a second")
    panel.set_ylim(0)
    panel.legend()
    return save(figure, folder / "strategies_busy.png")


def _plot_sureness(found: dict[str, Any], folder: Path) -> Path:
    figure, axes = panels(len(found["arms"]), width_in=3.4, height_in=3.6)
    for panel, (name, arm) in zip(axes, found["arms"].items(), strict=True):
        panel.plot([0, 1], [0, 1], color="#999999", linestyle="--", linewidth=1)
        for place, (key, label) in enumerate((("before", "as it comes"), ("after", "mapped, held out"))):
            bins = arm[key]["bins"]
            xs, ys = [one["confidence"] for one in bins], [one["right"] for one in bins]
            label = f"{label}: error {arm[key]['ece']:.3f}"
            panel.plot(xs, ys, marker=_MARKERS[place], color=_COLOURS[place], label=label)
        panel.set_title(name)
        panel.set_xlabel("confidence")
        panel.set_xlim(0, 1)
        panel.set_ylim(0, 1)
        panel.legend(fontsize=8, loc="upper left")
    axes[0].set_ylabel("pairs in the right order")
    return save(figure, folder / "strategies_confidence.png")


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
            label = f"{name} ({cost['rounds']:.1f} rounds)".replace(".0 rounds", " rounds")
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
