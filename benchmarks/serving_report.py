"""Tables, targets and plots of the serving benchmark, read from its result alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.plots import grouped_bars, panels, save
from benchmarks.quartiles import Quartiles, pairwise_ratios, quartiles
from benchmarks.report_types import Claim, Table

LORA, MERGED, ALONE = "LoRA adapter", "adapter merged into the base", "nothing else loaded"
OURS, VLLM = "ours", "vLLM server + client"
PEFT_APART, PEFT_MERGED = "PEFT, as published", "PEFT, merged"
SYSTEMS = (OURS, VLLM, PEFT_APART, PEFT_MERGED)
CROWD = 64

# part, the faster, the slower, the target where there is one
RATIOS: tuple[tuple[str, str, str, float | None], ...] = (
    (LORA, OURS, PEFT_APART, 5.0),
    (LORA, OURS, PEFT_MERGED, None),
    (LORA, OURS, VLLM, 7.0),
    (LORA, VLLM, PEFT_APART, None),
    (MERGED, OURS, PEFT_APART, 15.0),
    (MERGED, OURS, PEFT_MERGED, None),
    (MERGED, OURS, VLLM, 1.5),
    (MERGED, VLLM, PEFT_MERGED, None),
)

Burst = dict[str, Any]


def tables(result: dict[str, Any]) -> list[Table]:
    """Ratios, throughput and latency, agreement, and what could have disturbed the figures."""
    return [_ratios(result), _throughput(result), _agreement(result), _disturbance(result)]


def claims(result: dict[str, Any]) -> list[Claim]:
    """What was promised against the peers; the median of the rounds' ratios."""
    return [
        Claim(
            f"{_named(part, one)} against {_named(part, other)}, {CROWD} callers, requests/s",
            ratio(result, part, one, other).median,
            "x",
            target,
        )
        for part, one, other, target in RATIOS
        if target is not None
    ]


def plot(result: dict[str, Any], folder: Path) -> list[Path]:
    """Throughput of every system, and of the servers by callers."""
    return [_plot_systems(result, folder), _plot_callers(result, folder)]


def ratio(result: dict[str, Any], part: str, one: str, other: str) -> Quartiles:
    """Throughput of ``one`` over that of ``other``, round by round; servers at 64 callers."""
    rates = [lists_per_s(result, part, system, _most_callers(system)) for system in (one, other)]
    return quartiles(pairwise_ratios(*rates))


def lists_per_s(result: dict[str, Any], part: str, system: str, callers: int) -> list[float]:
    """Throughput of a system in each round."""
    return [one["lists_per_s"] for one in _bursts(result, part, system, callers)]


def _bursts(result: dict[str, Any], part: str, system: str, callers: int) -> list[Burst]:
    wanted = {"part": part, "system": system, "concurrency": callers}
    return [one for one in result["bursts"] if wanted.items() <= one.items()]


def _most_callers(system: str) -> int:
    return 1 if system in (PEFT_APART, PEFT_MERGED) else CROWD


def _named(part: str, system: str) -> str:
    """A system with what it holds: the pipelines hold the same in both parts."""
    if system in (PEFT_APART, PEFT_MERGED):
        return system
    return f"{system} ({part})"


def _conditions(result: dict[str, Any]) -> str:
    plan, peft = result["plan"], result["peft"]
    return (
        f"{result['passages']} passages a list, all ranked; {result['source']}; adapter "
        f"`{result['adapter']}`, bfloat16, all cores. Ours: scoring "
        f"`{result['scoring']}`. vLLM: its own OpenAI server with our engine's settings and environment; the "
        "client posts the card's prompt as text to /v1/completions, free greedy text of at most 4N-1 tokens, "
        "and reads it with the card's pattern. PEFT: the card's pipeline "
        f"(PEFT {peft['peft']}, transformers {peft['transformers']}), greedy, one list after another, at "
        f"most 4N-1 new tokens where the card allows 50, {peft['threads']} threads; as published PEFT holds "
        f"the adapter in float32. {plan['rounds']} rounds in turn; a round is {plan['crowd']} new lists for "
        f"each server at {CROWD} callers and the first {plan['one_by_one']} of them for the pipelines."
    )


def _ratios(result: dict[str, Any]) -> Table:
    rows = []
    for part, one, other, target in RATIOS:
        found = ratio(result, part, one, other)
        aim = "" if target is None else f"{target:g}x"
        rows.append((_named(part, one), _named(part, other), found.text(2, "x"), aim))
    columns = ("requests/s of", "over those of", "ratio", "target")
    return Table("How many times as fast", _conditions(result), columns, tuple(rows))


def _throughput(result: dict[str, Any]) -> Table:
    rows = []
    for part in (LORA, MERGED):
        for system in SYSTEMS:
            callers = sorted({one["concurrency"] for one in result["bursts"] if one["system"] == system})
            for count in callers:
                bursts = _bursts(result, part, system, count)
                if bursts:
                    rows.append((part, system, str(count), *_figures(bursts)))
    note = (
        "Median (quartiles) of the rounds; latencies are the medians of each round's percentiles. `written` "
        "is the mean of tokens generated for one list. `whole` counts the lists in which the model itself "
        "named every passage once; in the others free text went astray, and the card's parser put "
        "what was missing "
        "behind it in input order."
    )
    columns = ("part", "system", "callers", "lists/s", "p50 ms", "p95 ms", "prompt tokens", "written")
    return Table("Throughput and latency", note, (*columns, "whole"), tuple(rows))


def _figures(bursts: Sequence[Burst]) -> tuple[str, ...]:
    def median(field: str) -> str:
        return f"{quartiles([one[field] for one in bursts]).median:.0f}"

    def mean(field: str) -> str:
        return f"{fmean(one[field] for one in bursts):.0f}"

    whole, lists = (sum(one[field] for one in bursts) for field in ("whole", "lists"))
    return (
        quartiles([one["lists_per_s"] for one in bursts]).text(2),
        median("latency_p50_ms"),
        median("latency_p95_ms"),
        mean("prompt_tokens"),
        mean("completion_tokens"),
        f"{whole} of {lists}",
    )


def _agreement(result: dict[str, Any]) -> Table:
    rows = [
        (
            row["part"],
            f"{row['one']} / {row['other']}",
            str(row["lists"]),
            f"{100 * row['same_order']:.0f}%",
            f"{100 * row['same_decided']:.0f}%",
            f"{100 * row['same_first']:.0f}%",
            f"{row['mean_tau']:.3f}",
        )
        for row in result["agreement"]
    ]
    note = (
        "On the lists both were given. Ours decodes identifiers, the others write free text, which may "
        "break off: `as far as decided` compares the places that both models chose. Batching, "
        "bfloat16 and a merged "
        "or float32 adapter change near ties, so that equal orders are not to be expected everywhere."
    )
    columns = (
        "part",
        "systems",
        "lists",
        "same order",
        "as far as decided",
        "same first",
        "mean Kendall tau",
    )
    return Table("Whether they rank alike", note, columns, tuple(rows))


def _disturbance(result: dict[str, Any]) -> Table:
    rows = []
    for part in (LORA, MERGED, ALONE):
        for system in SYSTEMS:
            bursts = _bursts(result, part, system, _most_callers(system))
            if bursts:
                rates = quartiles([one["lists_per_s"] for one in bursts]).text(2)
                foreign = f"{fmean(one['foreign_cores'] for one in bursts):.2f}"
                rows.append((part, system, rates, foreign))
    note = (
        "While one is measured the others are loaded but frozen (SIGSTOP), or, on a GPU, not loaded: idle "
        "servers wake up often enough to slow a pipeline whose threads wait for each other. The last rows "
        "are the pipelines with no server loaded, to be held against their rows above. `foreign cores`: mean "
        "number of cores that others' processes used meanwhile; figures with much of it say little."
    )
    columns = ("part", "system", "lists/s", "foreign cores")
    return Table("Whether they disturbed each other", note, columns, tuple(rows))


def _plot_systems(result: dict[str, Any], folder: Path) -> Path:
    figure, (axes,) = panels(1, width_in=7.2, height_in=4.2)
    parts = (LORA, MERGED)
    series = {
        system: [quartiles(lists_per_s(result, part, system, _most_callers(system))) for part in parts]
        for system in SYSTEMS
    }
    grouped_bars(axes, parts, series, digits=1)
    axes.set_ylabel("requests/s")
    axes.set_title(f"{result['passages']} passages, servers at {CROWD} callers, PEFT one by one")
    axes.legend(loc="upper left", ncols=2, fontsize=8)
    axes.margins(y=0.3)
    return save(figure, folder / "serving_systems.png")


def _plot_callers(result: dict[str, Any], folder: Path) -> Path:
    figure, (axes,) = panels(1, width_in=6.0)
    bursts = [one for one in result["bursts"] if one["part"] == LORA and one["system"] == OURS]
    callers = sorted({one["concurrency"] for one in bursts})
    series = {
        system: [_known(lists_per_s(result, LORA, system, count)) for count in callers]
        for system in (OURS, VLLM, PEFT_APART)
    }
    grouped_bars(axes, [str(count) for count in callers], series, digits=1)
    axes.set_xlabel("callers")
    axes.set_ylabel("requests/s")
    axes.set_title(f"LoRA adapter, {result['passages']} passages")
    axes.legend(loc="upper left", fontsize=8)
    return save(figure, folder / "serving_callers.png")


def _known(rates: list[float]) -> Quartiles | None:
    return quartiles(rates) if rates else None
