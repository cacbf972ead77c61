"""A plan for people, for programs, and as a table for a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dear_serving.sizing.engine import Engine
from dear_serving.sizing.model import QUANTISATIONS
from dear_serving.sizing.plan import Estimate, Plan, Wish

_NAME, _CELL = 16, 16


def text(plan: Plan, asked: str, tokens_from: str, passes_from: str) -> list[str]:
    """A plan as lines, about a screen.

    Args:
        asked: the request in words, such as ``20 passages of 60 words``.
        tokens_from: how prompt tokens were counted; ``passes_from`` how passes a passage are known.
    """
    one, model = plan.chosen, plan.model
    engine = one.engine
    adapters = f"{engine.slots} adapters of rank {engine.rank}" if engine.slots else "no adapters"
    return [
        f"{model.name} in {engine.quantisation.text} on {engine.gpu.name}, {adapters}; {asked}",
        f"Calculated, not measured{_measured(engine)}",
        "",
        "A request",
        *_request(plan, tokens_from, passes_from),
        "",
        f"Memory of a GPU: {engine.settings.memory_share:.0%} of {engine.gpu.memory_gb:g} GB",
        *_memory(one),
        "",
        "A request alone",
        *_alone(plan),
        "",
        "Under load",
        *_load(plan),
        "",
        *_others(plan),
    ]


def table(rows: Sequence[Sequence[Estimate]], wish: Wish) -> list[str]:
    """Every card as a Markdown table."""
    kept = [f"{quantisation.text}, {wish.objective}" for quantisation in QUANTISATIONS.values()]
    head = ["GPU", "KV cache, tokens", "floor", "requests/s, full", *kept]
    lines = [f"| {' | '.join(head)} |", f"|---{'|---:' * (len(head) - 1)}|"]
    for row in rows:
        one = row[0]
        cells = [
            one.engine.gpu.name,
            f"{one.memory.cache_tokens:,}",
            f"{one.floor_s:.2f} s",
            _rate(one.full_s),
        ]
        lines.append(f"| {' | '.join([*cells, *(_rate(each.within_s) for each in row)])} |")
    return lines


def data(plan: Plan) -> dict[str, Any]:
    """A plan as JSON values: bytes, seconds, requests/s."""
    work, engine = plan.work, plan.chosen.engine
    return {
        "model": plan.model.name,
        "objective": str(plan.wish.objective),
        "rate": plan.wish.rate,
        "request": {
            "strategy": work.strategy,
            "windows": work.windows,
            "rounds": work.rounds,
            "prompt_tokens": work.tokens,
            "window_tokens": work.window_tokens,
            "forward_passes": engine.passes(work),
            "notes": list(work.notes),
        },
        "assumed": {
            "efficiency": engine.efficiency.model_dump(),
            "host": engine.host.model_dump(),
            "engine": engine.settings.model_dump(),
        },
        "measured": {"slowness": engine.slowness, "delay": engine.delay},
        "chosen": _estimate(plan.chosen),
        "others": [_estimate(one) for row in plan.others for one in row],
    }


def _estimate(one: Estimate) -> dict[str, Any]:
    return {
        "gpu": one.engine.gpu.name,
        "source": one.engine.gpu.source,
        "quantization": one.engine.quantisation.name,
        "fits": one.fits,
        "weight_bytes": one.memory.weights,
        "adapter_bytes": one.memory.adapters,
        "cache_bytes": max(0.0, one.memory.cache),
        "cache_tokens": one.memory.cache_tokens,
        "windows_at_once": one.batch,
        "floor_s": one.floor_s,
        "alone_s": one.alone_s if one.fits else None,
        "full_requests_s": one.full_s,
        "utilisation": one.utilisation,
        "requests_s": one.within_s,
        "gpus": one.gpus,
    }


def _measured(engine: Engine) -> str:
    if engine.slowness == 1 and engine.delay == 1:
        return "; replace the factors by your own with --measured."
    return (
        f", but for your report: a full engine takes {engine.slowness:.2f} times as long as calculated, "
        f"a request alone {engine.delay:.2f}."
    )


def _request(plan: Plan, tokens_from: str, passes_from: str) -> list[str]:
    work = plan.work
    rounds = f" in {work.rounds} round{'s' * (work.rounds > 1)}" if work.windows > 1 else ""
    windows = f"{work.windows} window{'s' * (work.windows > 1)} of {work.widest}{rounds}"
    reason = work.reason.partition(";")[0]
    return [
        _line("prompt tokens", f"{work.tokens:,} ({tokens_from})"),
        _line("windows", f"{windows}, {work.strategy}: {reason}"),
        _line("forward passes", f"{plan.chosen.engine.passes(work):.1f} in a row ({passes_from})"),
        *(_line("warning", note) for note in work.notes),
    ]


def _memory(one: Estimate) -> list[str]:
    memory = one.memory
    slots = f" + {_gb(memory.adapters)} adapter slots" if memory.adapters else ""
    return [
        _line("taken", f"{_gb(memory.weights)} weights{slots} + {_gb(memory.working)} to work in (estimate)"),
        _line(
            "KV cache",
            f"{_gb(memory.cache)} = {memory.cache_tokens:,} tokens of "
            f"{one.engine.model.cache_bytes_a_token:,} bytes: {one.batch} windows at once",
        ),
    ]


def _alone(plan: Plan) -> list[str]:
    one, work = plan.chosen, plan.work
    engine = one.engine
    passes = engine.passes(work)
    products_s = work.tokens * engine.model.flop_a_token / engine.flop_s
    peak = engine.gpu.flop_s(engine.quantisation.numbers) / 1e12
    return [
        _line(
            "latency floor",
            f"{one.floor_s:.2f} s = {engine.prompts_s(work):.3f} s prompts + {passes:.1f} passes x "
            f"{1e3 * engine.read_s():.1f} ms",
        ),
        _line(
            "prompts",
            f"{work.tokens:,} tokens x {engine.model.flop_a_token / 1e9:.3g} GFLOP / "
            f"({engine.efficiency.compute:.0%} of {peak:.3g} TFLOP/s) = {products_s:.3f} s, "
            f"adapter {work.tokens * engine.adapter_token_s:.3f} s, "
            f"attention {engine.attention_s(work):.3f} s",
        ),
        _line(
            "a pass",
            f"{engine.model.read_bytes(engine.quantisation) / 1e9:.3g} GB of weights / "
            f"({engine.efficiency.memory:.0%} of {engine.gpu.gb_s:,.0f} GB/s)",
        ),
        _line(
            "with the host",
            f"{one.alone_s:.2f} s: {1e3 * engine.host.pass_s(1):.1f} ms a pass, "
            f"{1e3 * engine.host.request_s:.0f} ms in the gateway (estimates){_times(engine.delay)}",
        ),
    ]


def _load(plan: Plan) -> list[str]:
    one, wish = plan.chosen, plan.wish
    most = one.engine.settings.most_utilisation
    lines = [
        _line(
            "a GPU, full",
            f"{_rate(one.full_s)} requests/s = 1 / {1 / one.full_s:.3f} s: the prompts, and passes shared by "
            f"{one.batch} windows{_times(one.engine.slowness)}",
        ),
        _line(
            str(wish.objective),
            f"{_rate(one.within_s)} requests/s, {one.utilisation:.0%} of that: the wait for others is "
            f"that of an M/M/1 queue, at most {most:.0%}",
        ),
    ]
    if one.gpus is not None:
        lines.append(_line(f"{wish.rate:g} requests/s", f"{one.gpus} GPUs, one of them spare (N+1)"))
    return lines


def _others(plan: Plan) -> list[str]:
    """The chosen card and smaller ones, with weights kept in every way."""
    wish = plan.wish
    title = f"Requests/s of a GPU within {wish.objective}"
    title += "" if wish.rate is None else f" (GPUs for {wish.rate:g} requests/s)"
    head = [f"{one.engine.quantisation.text} {_gb(one.memory.weights)}" for one in plan.others[0]]
    lines = [f"{title}, by how weights are kept", _line("", _cells(head))]
    lines += [_line(row[0].engine.gpu.name, _cells([_in_short(one) for one in row])) for row in plan.others]
    lines.append(
        _line("-", "does not fit or misses the objective; compare orders before you quantise: dear eval")
    )
    return lines


def _in_short(one: Estimate) -> str:
    return _rate(one.within_s) + ("" if one.gpus is None else f" ({one.gpus:,})")


def _cells(cells: Sequence[str]) -> str:
    return "".join(f"{cell:<{_CELL + 3}}" for cell in cells).rstrip()


def _rate(value: float) -> str:
    if not value:
        return "-"
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def _times(factor: float) -> str:
    return "" if factor == 1 else f", x {factor:.2f} measured"


def _gb(value: float) -> str:
    return f"{value / 1e9:.3g} GB"


def _line(name: str, value: str) -> str:
    return f"  {name:<{_NAME}}{value}".rstrip()
