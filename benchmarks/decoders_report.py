"""Tables of the decoders benchmark, read from its result alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.decode_report import FIRST, FREE, PERMUTATION, latencies_ms, lists_per_s, ratio
from benchmarks.quartiles import percentile, quartiles
from benchmarks.report_types import Claim, Table

Cell = dict[str, Any]


def tables(result: dict[str, Any]) -> list[Table]:
    """Speed and passes, then floors."""
    return [_speed(result), _floors(result)]


def claims(result: dict[str, Any]) -> list[Claim]:
    """None: what was promised stands in the decode benchmark."""
    return []


def plot(result: dict[str, Any], folder: Path) -> list[Path]:
    """None."""
    return []


def passes_a_list(cell: Cell) -> float:
    """Forward passes of a list's window, as the server counts them."""
    rounds = cell["arms"][PERMUTATION]
    return float(sum(one["passes"] for one in rounds) / sum(len(one["latencies_ms"]) for one in rounds))


def prefill_share(cell: Cell) -> float:
    """Median engine time of one forward pass over that of the whole order; with one caller, the prompt's."""
    first, whole = (
        percentile([ms for one in cell["arms"][arm] for ms in one["engine_ms"]], 0.5)
        for arm in (FIRST, PERMUTATION)
    )
    return first / whole


def floor_s(result: dict[str, Any], cell: Cell) -> float:
    """Seconds for one list of every caller: prompts computed, and weights read once a pass, at full rate."""
    rates, cost = result["rates"], result["pass"]
    prompts_s = cell["concurrency"] * cell["prompt_tokens"] * cost["flop_a_token"] / rates["flop_s"]
    return float(prompts_s + passes_a_list(cell) * cost["weight_bytes"] / rates["bytes_s"])


def wall_s(cell: Cell) -> float:
    """Median seconds of a round, in which every caller ranks a list."""
    return quartiles([one["wall_s"] for one in cell["arms"][PERMUTATION]]).median


def _speed(result: dict[str, Any]) -> Table:
    rows = []
    for cell in result["cells"]:
        passes = passes_a_list(cell)
        alone = cell["concurrency"] == 1
        rows.append(
            (
                *_condition(cell),
                quartiles(lists_per_s(cell, PERMUTATION)).text(2),
                *(f"{percentile(latencies_ms(cell, PERMUTATION), share):.0f}" for share in (0.5, 0.95)),
                f"{passes:.1f}",
                f"{passes / cell['passages']:.2f}",
                f"{100 * prefill_share(cell):.0f}%" if alone else "",
                ratio(cell, FREE, PERMUTATION).text(2, "x") if FREE in cell["arms"] else "",
            )
        )
    note = (
        f"Over the server, adapter `{result['model']}`; {result['source']}; every request has a list of its "
        "own. A round is one list a caller. Passes are counted by the server, the prompt's included. "
        "`prompt's share` is the engine's time of a `first_token` request over that of the whole order, one "
        "caller. The last column is free text of 4N-1 tokens over permutation, wall time, round by round."
    )
    columns = ("lists/s", "p50 ms", "p95 ms", "passes a list", "a passage", "prompt's share", "against free")
    return Table("Speed and passes", note, (*_CONDITION, *columns), tuple(rows))


def _floors(result: dict[str, Any]) -> Table:
    rates, cost = result["rates"], result["pass"]
    rows = [
        (
            *_condition(cell),
            f"{1e3 * wall_s(cell):.0f}",
            f"{1e3 * floor_s(result, cell):.0f}",
            f"{wall_s(cell) / floor_s(result, cell):.1f}x",
        )
        for cell in result["cells"]
    ]
    note = (
        f"{rates['device']}: a token's products read {rates['bytes_s'] / 1e9:.1f} GB/s of bfloat16 weights, "
        f"one large product reaches {rates['flop_s'] / 1e12:.2f} TFLOP/s, both measured before the servers. "
        f"A pass reads {cost['weight_bytes'] / 1e9:.2f} GB, a prompt's token takes "
        f"{cost['flop_a_token'] / 1e9:.2f} GFLOP. The floor of a round is its prompts, and the weights read "
        "once a pass, by all callers together. It leaves out attention, the adapter and the host."
    )
    return Table("Floors", note, (*_CONDITION, "a round, ms", "floor, ms", "over the floor"), tuple(rows))


_CONDITION = ("way", "passages", "callers", "prompt tokens")


def _condition(cell: Cell) -> tuple[str, ...]:
    return (cell["way"], *(f"{cell[key]:.0f}" for key in ("passages", "concurrency", "prompt_tokens")))
