"""Tables, targets and plots of the decode benchmark, read from its result alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.plots import grouped_bars, panels, reference_line, save
from benchmarks.quartiles import Quartiles, pairwise_ratios, quartiles
from benchmarks.report_types import Claim, Table

TOP_N = 5
PERMUTATION, TOP, FREE = "permutation", f"permutation, top {TOP_N}", "free, 4N-1 tokens"
OWN_FREE, FIRST = "scoring: generate", "first token"
ARMS = (PERMUTATION, TOP, FREE, OWN_FREE, FIRST)

Cell = dict[str, Any]


def tables(result: dict[str, Any]) -> list[Table]:
    """Latency, throughput, forward passes, top n."""
    return [_latency(result), _throughput(result), _passes(result), _top_n(result)]


def claims(result: dict[str, Any]) -> list[Claim]:
    """What was promised of permutation decoding; a claim whose cell was not measured is left out."""
    found = []
    alone = _find(result, passages=20, concurrency=1)
    if alone:
        passes = passes_per_passage(alone, PERMUTATION)
        found.append(Claim("forward passes per ranked passage, 20 passages", passes, "", 0.6, False))
        speed_up = ratio(alone, FREE, PERMUTATION).median
        found.append(Claim("permutation against free decoding, 20 passages, 1 caller", speed_up, "x", 4.0))
        part = decode_ratio(alone)
        found.append(Claim(f"decode time of all 20 against top {TOP_N} of 20", part, "x", 3.0))
    for crowd in _cells(result, passages=20, concurrency=32):
        text = (
            "permutation against free decoding, 20 passages, 32 callers, "
            f"prompts of {crowd['prompt_tokens']:.0f} tokens"
        )
        found.append(Claim(text, ratio(crowd, FREE, PERMUTATION).median, "x", 2.0))
    return found


def plot(result: dict[str, Any], folder: Path) -> list[Path]:
    """Throughput and speed-up by callers at the longest list; latency by list length at one caller."""
    return [_plot_speed_up(result, folder), _plot_latency(result, folder)]


def latencies_ms(cell: Cell, arm: str) -> list[float]:
    """Of every request of the arm."""
    return [latency for round_ in cell["arms"][arm] for latency in round_["latencies_ms"]]


def lists_per_s(cell: Cell, arm: str) -> list[float]:
    """Throughput of each round."""
    return [len(round_["latencies_ms"]) / round_["wall_s"] for round_ in cell["arms"][arm]]


def ratio(cell: Cell, slower: str, faster: str) -> Quartiles:
    """How many times less wall time the faster arm takes, round by round."""
    walls = {arm: [round_["wall_s"] for round_ in cell["arms"][arm]] for arm in (slower, faster)}
    return quartiles(pairwise_ratios(walls[slower], walls[faster]))


def passes_per_passage(cell: Cell, arm: str) -> float:
    """Engine steps, the prompt's included, over passages ranked; needs one caller."""
    rounds = cell["arms"][arm]
    ranked = TOP_N if arm == TOP else cell["passages"]
    requests = sum(len(round_["latencies_ms"]) for round_ in rounds)
    return float(sum(round_["engine_steps"] for round_ in rounds) / (requests * ranked))


def decode_ms(cell: Cell, arm: str) -> Quartiles:
    """Engine time beyond the first token's, round by round; needs one caller."""
    return quartiles(
        [
            full["engine_ms"][0] - first["engine_ms"][0]
            for full, first in zip(cell["arms"][arm], cell["arms"][FIRST], strict=True)
        ]
    )


def decode_ratio(cell: Cell) -> float:
    """Median decode time of all passages over that of the top n."""
    return decode_ms(cell, PERMUTATION).median / decode_ms(cell, TOP).median


def _latency(result: dict[str, Any]) -> Table:
    rows = []
    for cell in result["cells"]:
        medians = [quartiles(latencies_ms(cell, arm)).text(0) if arm in cell["arms"] else "" for arm in ARMS]
        rows.append((*_condition(cell), *medians))
    note = (
        f"Wall time of a request in ms, median (quartiles); adapter `{result['model']}`; {result['source']}. "
        "Every request has a list of its own, so the prefix cache gives nothing "
        f"({100 * result['prefix_cache_share']:.1f}% of the prompts' tokens came from it). "
        "`first token` is one forward pass: the prompt's own time."
    )
    return Table("Latency", note, (*_CONDITION, *ARMS), tuple(rows))


def _throughput(result: dict[str, Any]) -> Table:
    rows = []
    for cell in result["cells"]:
        figures = [
            quartiles(lists_per_s(cell, arm)).text(2) if arm in cell["arms"] else "" for arm in ARMS[:4]
        ]
        rows.append((*_condition(cell), *figures, ratio(cell, FREE, PERMUTATION).text(2, "x")))
    note = (
        "Requests/s, median (quartiles) of rounds in which every caller ranks one list. The last column "
        "is free (4N-1 tokens) over permutation, wall time, round by round."
    )
    return Table("Throughput", note, (*_CONDITION, *ARMS[:4], "permutation is faster by"), tuple(rows))


def _passes(result: dict[str, Any]) -> Table:
    rows = []
    for cell in _cells(result, concurrency=1):
        for arm, rounds in cell["arms"].items():
            tokens = quartiles([count for round_ in rounds for count in round_["completion_tokens"]]).median
            steps = quartiles([round_["engine_steps"] for round_ in rounds]).median
            per_passage = f"{passes_per_passage(cell, arm):.2f}"
            rows.append((str(cell["passages"]), arm, f"{tokens:.0f}", f"{steps:.0f}", per_passage))
    note = (
        "One caller. Steps are the difference of vLLM's own counter `vllm:iteration_tokens_total_count` "
        "around a request, the prompt's step included (so 4N-1 free tokens are 4N-1 steps)."
    )
    columns = ("passages", "arm", "tokens reported", "engine steps a list", "steps a ranked passage")
    return Table("Forward passes", note, columns, tuple(rows))


def _top_n(result: dict[str, Any]) -> Table:
    rows = []
    for cell in _cells(result, concurrency=1):
        if TOP not in cell["arms"]:
            continue
        total = ratio(cell, PERMUTATION, TOP).text(2, "x")
        decode = [decode_ms(cell, arm).text(0) for arm in (PERMUTATION, TOP)]
        rows.append((str(cell["passages"]), total, *decode, f"{decode_ratio(cell):.2f}x"))
    note = (
        "One caller. Decode time is the engine's time beyond that of a `first_token` request in the same "
        "round, with another list of equal length; the last column is the ratio of the medians."
    )
    columns = (
        "passages",
        f"all against top {TOP_N}, whole request",
        "decode of all, ms",
        f"decode of top {TOP_N}, ms",
        f"all against top {TOP_N}, decode alone",
    )
    return Table(f"Only the top {TOP_N}", note, columns, tuple(rows))


_CONDITION = ("passages", "callers", "prompt tokens", "rounds")


def _condition(cell: Cell) -> tuple[str, ...]:
    return tuple(f"{cell[key]:.0f}" for key in ("passages", "concurrency", "prompt_tokens", "rounds"))


def _cells(result: dict[str, Any], **wanted: int) -> list[Cell]:
    return [cell for cell in result["cells"] if all(cell[key] == value for key, value in wanted.items())]


def _find(result: dict[str, Any], **wanted: int) -> Cell | None:
    return next(iter(_cells(result, **wanted)), None)


def _plot_speed_up(result: dict[str, Any], folder: Path) -> Path:
    figure, (axes,) = panels(1, width_in=7.4)
    longest = max(cell["passage_tokens"] for cell in result["cells"])
    shown = _cells(result, passage_tokens=longest)
    lengths = sorted({cell["passages"] for cell in shown})
    callers = sorted({cell["concurrency"] for cell in shown})
    series: dict[str, Sequence[Quartiles | None]] = {}
    for length in lengths:
        wanted = {"passages": length, "passage_tokens": longest}
        cells = [_find(result, concurrency=count, **wanted) for count in callers]
        series[f"{length} passages"] = [ratio(cell, FREE, PERMUTATION) if cell else None for cell in cells]
    grouped_bars(axes, [_callers(count) for count in callers], series, digits=2)
    reference_line(axes, 1.0, "as fast as\nfree generation")
    axes.set_title("How much faster permutation decoding answers than free generation")
    axes.set_ylabel("ratio of wall times (quartiles)")
    axes.legend(ncols=len(series))
    return save(figure, folder / "decode_speed_up.png")


def _plot_latency(result: dict[str, Any], folder: Path) -> Path:
    figure, axes = panels(2, width_in=6.8)
    for one, count in zip(axes, (1, 32), strict=True):
        cells = _cells(result, concurrency=count)
        names = [f"{cell['passages']} passages\n{cell['prompt_tokens']:.0f} tokens" for cell in cells]
        series = {
            arm: [quartiles(latencies_ms(cell, arm)) if cell["arms"].get(arm) else None for cell in cells]
            for arm in ARMS
        }
        grouped_bars(one, names, series, digits=0)
        one.set_title(f"Latency, {_callers(count)}")
        one.set_ylabel("wall time of a list, ms (quartiles)")
    axes[0].legend(fontsize=8)
    return save(figure, folder / "decode_latency.png")


def _callers(count: int) -> str:
    return "1 caller" if count == 1 else f"{count} callers"
