"""Tables, targets and plots of the cascade benchmark, read from its result alone."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from benchmarks.plots import COLOURS, panels, save
from benchmarks.quartiles import quartiles
from benchmarks.report_types import Claim, Table

MOST_TOKENS = 0.5  # of listwise over all, at equal nDCG@10
MIDDLE = "as published"
ENGINE_LISTWISE, LISTWISE = ("sliding", "auto"), ("sliding", "joint")

_MARKERS = "osD^vPX*hd"
_COLOURS = (*COLOURS, "#000000", "#888888", "#663300")

Arms = dict[str, dict[str, Any]]


def tables(result: dict[str, Any]) -> list[Table]:
    """The engine's figures; the simulation's where it ran."""
    simulated = result["simulation"]
    if "skipped" in simulated:
        return [_engine(result)]
    return [_engine(result), _tokens(simulated), _quality(simulated)]


def claims(result: dict[str, Any]) -> list[Claim]:
    """Tokens of the cheapest cascade that is as good as listwise over all, over those of the latter."""
    found = []
    for reference in ENGINE_LISTWISE:
        text = f"tokens over {reference}'s at equal nDCG@10, tiny model, its own lists"
        found.append(Claim(text, _engine_ratio(result["arms"], reference), "x", MOST_TOKENS, False))
    simulated = result["simulation"]
    if "skipped" in simulated:
        return found
    arms = simulated["stages"][MIDDLE]["arms"]
    for prompts, tokens in simulated["tokens"].items():
        for reference, shown in (("joint", "auto (joint)"), ("sliding", "sliding")):
            ratios = [tokens[name] / tokens[reference] for name in _equal(arms, reference)]
            text = f"tokens over {shown}'s at equal nDCG@10, simulated, {prompts}"
            found.append(Claim(text, min(ratios, default=float("inf")), "x", MOST_TOKENS, False))
    return found


def plot(result: dict[str, Any], folder: Path) -> list[Path]:
    """Quality by tokens, in simulation."""
    return [] if "skipped" in result["simulation"] else [_plot(result["simulation"], folder)]


def _equal(arms: Arms, reference: str) -> list[str]:
    """The cascades whose nDCG@10 is not below the reference's by more than chance explains (paired, 95%), nor
    by more than a point."""
    found = []
    for name, arm in arms.items():
        against = arm["against"][reference]
        if name.startswith("cascade") and against["difference"] > -min(1.0, 1.96 * against["se"]):
            found.append(name)
    return found


def _engine_ratio(arms: dict[str, list[dict[str, Any]]], reference: str) -> float:
    """The same on the engine's lists."""
    ratios = []
    for name in arms:
        differences = _differences(arms, name, reference)
        spread = statistics.stdev(differences) / len(differences) ** 0.5 if len(differences) > 1 else 0.0
        if name.startswith("cascade") and statistics.mean(differences) >= -min(1.0, 1.96 * spread):
            tokens = (sum(one["tokens"] for one in arms[which]) for which in (name, reference))
            ratios.append(next(tokens) / next(tokens))
    return min(ratios, default=float("inf"))


def _differences(arms: dict[str, list[dict[str, Any]]], name: str, reference: str) -> list[float]:
    pairs = zip(arms[name], arms[reference], strict=True)
    return [one["ndcg"] - other["ndcg"] for one, other in pairs]


def _engine(result: dict[str, Any]) -> Table:
    arms, rows = result["arms"], []
    for name, figures in arms.items():
        tokens = statistics.mean(one["tokens"] for one in figures)
        ratios = [tokens / statistics.mean(one["tokens"] for one in arms[ref]) for ref in ENGINE_LISTWISE]
        rows.append(
            (
                f"auto ({figures[0]['strategy']})" if name == "auto" else name,
                f"{statistics.median(one['windows'] for one in figures):.0f}",
                f"{statistics.median(one['scored'] for one in figures):.0f}",
                f"{statistics.median(one['rounds'] for one in figures):.0f}",
                f"{tokens:,.0f}",
                *(f"{ratio:.2f}x" for ratio in ratios),
                f"{statistics.mean(one['ndcg'] for one in figures):.1f}",
                *(_paired(_differences(arms, name, ref)) if ref != name else "" for ref in ENGINE_LISTWISE),
                quartiles([one["wall_ms"] for one in figures]).text(0),
            )
        )
    note = (
        f"`{result['model']}`, {result['passages']} passages, top {result['top_n']}, {result['lists']} lists "
        "of held-out words, one caller. Tokens: read and written, of both stages, as the reply has them. "
        "nDCG@10: mean, and paired difference with its standard error over lists. Wall time: median "
        "(quartiles)."
    )
    columns = (
        "strategy",
        "windows",
        "scored",
        "rounds",
        "tokens",
        *(f"of {ref}'s" for ref in ENGINE_LISTWISE),
    )
    more = ("nDCG@10", *(f"against {ref}" for ref in ENGINE_LISTWISE), "wall time, ms")
    return Table("On the engine", note, (*columns, *more), tuple(rows))


def _paired(differences: list[float]) -> str:
    if len(differences) < 2:
        return f"{differences[0]:+.1f}"
    spread = statistics.stdev(differences) / len(differences) ** 0.5
    return f"{statistics.mean(differences):+.1f} ± {spread:.1f}"


def _tokens(simulated: dict[str, Any]) -> Table:
    rows = []
    for name, known in simulated["costs"].items():
        row = [name, str(known["windows"]), str(known["scored"]), str(known["rounds"])]
        for tokens in simulated["tokens"].values():
            ratios = [f"{tokens[name] / tokens[ref]:.2f}" for ref in LISTWISE]
            row.append(f"{tokens[name]:,.0f} ({' / '.join(ratios)})")
        rows.append(tuple(row))
    note = (
        "Prompt tokens of both stages for 100 passages of TREC DL 2019, windows of 20, by the prompts of the "
        "listwise and the first stage; in brackets over those of sliding and of joint, which strategy auto "
        "takes. Estimated from the texts: 1.11 tokens of Llama 3 for a word or a mark, as measured on two "
        "lengths of the plain prompt. What the prefix cache spares is not taken off."
    )
    columns = ("strategy", "windows", "scored", "rounds", *simulated["tokens"])
    return Table("Tokens", note, columns, tuple(rows))


def _quality(simulated: dict[str, Any]) -> Table:
    rows = []
    for name in simulated["costs"]:
        row = [name]
        for stage in simulated["stages"].values():
            arm = stage["arms"][name]
            row.append(f"{arm['ndcg']:.1f}")
            for ref in LISTWISE:
                against = arm["against"][ref]
                row.append("" if ref == name else f"{against['difference']:+.1f} ± {against['se']:.1f}")
        rows.append(tuple(row))
    alone = {name: stage["arms"]["first stage alone"]["ndcg"] for name, stage in simulated["stages"].items()}
    note = (
        f"TREC DL 2019, {simulated['topics']} topics, BM25's top 100, {simulated['runs']} runs. Both stages "
        "are oracles that see judged relevance plus an error. The first stage's sticks to the passage, and "
        f"correlates with the listwise one's sticking error by {simulated['shared_error']}; nDCG@10 alone: "
        + ", ".join(f"{name} {value:.1f}" for name, value in alone.items())
        + ". Differences are paired, topic by topic, with their standard error over topics. The mean of both "
        "stages' ranks was tried and is no strategy of the server: it gains where their errors are unlike, "
        "as here, and no real model was at hand to say how unlike they are."
    )
    columns = ["strategy"]
    for stage in simulated["stages"]:
        columns += [f"nDCG@10, {stage}", *(f"against {ref}" for ref in LISTWISE)]
    return Table("Quality, simulated with noisy oracles", note, tuple(columns), tuple(rows))


def _plot(simulated: dict[str, Any], folder: Path) -> Path:
    prompts, tokens = next(iter(simulated["tokens"].items()))
    figure, axes = panels(len(simulated["stages"]), width_in=4.2, height_in=4.4)
    for panel, (stage, found) in zip(axes, simulated["stages"].items(), strict=True):
        for place, (name, arm) in enumerate(found["arms"].items()):
            panel.plot(
                [tokens[name] / 1e3],
                [arm["ndcg"]],
                _MARKERS[place],
                color=_COLOURS[place],
                markersize=8,
                label=name,
            )
        panel.set_title(f"first stage {stage}", fontsize=10)
        panel.set_xlabel(f"thousand prompt tokens ({prompts})", fontsize=8.5)
        panel.set_xlim(0)
    axes[0].set_ylabel("nDCG@10")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8.5)
    return save(figure, folder / "cascade_simulated.png")
