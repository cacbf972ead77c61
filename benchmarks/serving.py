"""Our server against the model card's own pipeline, and against vLLM's own server with a ranking client.

Two parts, since only one of our servers runs at a time: one with the LoRA adapter, one with the adapter
merged into the base model. In each, our server, vLLM's and the card's pipeline are loaded together and take
turns; while one is measured the others are frozen. On a GPU they do not fit together: there one after the
other is loaded and ranks the lists of all rounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.baselines.burst import Burst, burst
from benchmarks.baselines.peft_pipeline import PeftPipeline
from benchmarks.baselines.ranking import agreement
from benchmarks.baselines.systems import Ours, Peft, System, VllmWithClient
from benchmarks.baselines.vllm_server import VllmServer
from benchmarks.context import Context
from benchmarks.serving_report import (
    ALONE,
    CROWD,
    LORA,
    MERGED,
    OURS,
    PEFT_APART,
    PEFT_MERGED,
    VLLM,
    claims,
    plot,
    tables,
)
from benchmarks.target import Target
from benchmarks.workloads import Lists
from dear_client.options import Scoring
from dear_tools.load.lists import List

__all__ = ["NAME", "TITLE", "claims", "plot", "run", "steps", "tables"]

NAME = "serving"
TITLE = "Served, against the model card's pipeline and vLLM's own server"

PASSAGES = 20
PASSAGE_TOKENS = 24
SCORING: Scoring = "permutation"
MERGED_ID = "merged"
WARM_UP_LISTS = 8


@dataclass(frozen=True, slots=True)
class Amount:
    """How much is measured: rounds of each part, and lists a burst.

    Both servers get ``crowd`` lists at 64 callers and, in the first round with the adapter, ``few`` (callers
    -> lists) besides; the card's pipeline gets the first ``one_by_one`` lists of each crowd.
    """

    rounds: int
    crowd: int
    one_by_one: int
    few: tuple[tuple[int, int], ...]

    @property
    def steps(self) -> int:
        """Bursts in all."""
        return 8 * self.rounds + 2 * len(self.few) + 2


FULL = Amount(rounds=3, crowd=64, one_by_one=8, few=((16, 16), (1, 4)))
QUICK = Amount(rounds=1, crowd=64, one_by_one=2, few=((16, 16), (1, 2)))


def steps(quick: bool) -> int:
    """One a burst."""
    return (QUICK if quick else FULL).steps


def run(context: Context) -> dict[str, Any]:
    """Both parts, and the card's pipeline with nothing else loaded."""
    amount = QUICK if context.quick else FULL
    target, log = context.target, context.scratch / "peft.log"
    with ExitStack() as stack:
        pipeline = stack.enter_context(PeftPipeline(target.adapter, log))
        described = pipeline.wait_until_ready()
        merged = context.scratch / "merged"
        pipeline.save_merged(merged)
        config = _merged_config(context.scratch, target, merged)
        served = ((LORA, target.config, target.model), (MERGED, config, MERGED_ID))
        if not target.apart:
            parts = [_part(context, amount, *one, pipeline) for one in served]
        context.stop_server()
        alone = _alone(context, amount, pipeline)
        if target.apart:
            peft = _peft_apart(context, amount, pipeline)
            stack.close()  # the servers need the memory
            parts = [_part_apart(context, amount, *one, peft) for one in served]
            context.stop_server()
    return {
        "passages": PASSAGES,
        "adapter": target.model,
        "scoring": SCORING,
        "source": Lists(context.seed, PASSAGE_TOKENS).source,
        "plan": asdict(amount),
        "peft": described,
        "vllm_commands": {part.name: part.vllm_command for part in parts},
        "merged_config": config.read_text(encoding="utf-8"),
        "bursts": [one | {"part": part.name} for part in parts for one in part.to_json()]
        + [one.to_json() | {"part": ALONE, "round": 0} for one in alone],
        "agreement": [row for part in parts for row in _agreements(part)],
    }


@dataclass(frozen=True, slots=True)
class Part:
    """One part's bursts, round by round; every round has lists of its own."""

    name: str
    vllm_command: list[str]
    rounds: tuple[tuple[Burst, ...], ...]

    def to_json(self) -> list[dict[str, Any]]:
        """One object a burst."""
        return [one.to_json() | {"round": number} for number, turn in enumerate(self.rounds) for one in turn]


def _part(
    context: Context, amount: Amount, name: str, config: Path, model: str, pipeline: PeftPipeline
) -> Part:
    """Start both servers at once, warm all up, then round after round."""
    if name == MERGED:
        context.stop_server()  # before another engine loads
    context.show(f"{NAME}: starting vLLM's server and ours, {name}")
    with VllmServer(config, context.scratch / f"vllm-{config.stem}.log") as vllm:
        server = context.server(config)
        vllm.wait_until_ready()
        servers = (Ours(OURS, server, model, SCORING), VllmWithClient(VLLM, vllm, model))
        systems: list[System] = [*servers, *_pipelines(pipeline)]
        lists = Lists(context.seed, PASSAGE_TOKENS)
        spare = Lists(context.seed + 1, PASSAGE_TOKENS)
        for system in systems:
            system.rank(spare.take(WARM_UP_LISTS if system in servers else 1, PASSAGES), WARM_UP_LISTS)
        rounds = []
        for number in range(amount.rounds):
            few = amount.few if name == LORA and number == 0 else ()
            turns = []
            for system, workloads, callers in _turns(amount, few, servers, _pipelines(pipeline), lists):
                context.show(f"{NAME}: {system.name}, {callers} at a time")
                turns.append(burst(system, systems, workloads, callers, spare.take(1, PASSAGES)))
                context.advance(f"{NAME}: {name}, round {number + 1}: {system.name}")
            rounds.append(tuple(turns))
        return Part(name, vllm.command(), tuple(rounds))


def _turns(
    amount: Amount,
    few: Sequence[tuple[int, int]],
    servers: tuple[System, System],
    pipelines: tuple[System, System],
    lists: Lists,
) -> Iterator[tuple[System, list[List], int]]:
    """Who ranks which lists with how many callers, in the order of one round."""
    ours, vllm = servers
    apart, merged = pipelines
    crowd = lists.take(amount.crowd, PASSAGES)
    yield ours, crowd, CROWD
    yield apart, crowd[: amount.one_by_one], 1
    yield vllm, crowd, CROWD
    yield merged, crowd[: amount.one_by_one], 1
    for callers, count in few:
        workloads = lists.take(count, PASSAGES)
        yield ours, workloads, callers
        yield vllm, workloads, callers


def _alone(context: Context, amount: Amount, pipeline: PeftPipeline) -> list[Burst]:
    """The pipelines with no server loaded."""
    first, *workloads = Lists(context.seed, PASSAGE_TOKENS).take(amount.one_by_one + 1, PASSAGES)
    found = []
    for system in _pipelines(pipeline):
        found.append(burst(system, [], workloads, 1, [first]))
        context.advance(f"{NAME}: {system.name}, alone on the machine")
    return found


def _peft_apart(context: Context, amount: Amount, pipeline: PeftPipeline) -> list[tuple[Burst, ...]]:
    """The pipelines' bursts of all rounds, with nothing else loaded."""
    spare = Lists(context.seed + 1, PASSAGE_TOKENS)
    found = []
    for crowd in _crowds(context, amount):
        turn = []
        for system in _pipelines(pipeline):
            turn.append(burst(system, [], crowd[: amount.one_by_one], 1, spare.take(1, PASSAGES)))
            context.advance(f"{NAME}: {system.name}, nothing else loaded")
        found.append(tuple(turn))
    return found


def _part_apart(
    context: Context,
    amount: Amount,
    name: str,
    config: Path,
    model: str,
    peft: Sequence[tuple[Burst, ...]],
) -> Part:
    """As ``_part``, one server after the other. The pipelines' bursts are those of ``_peft_apart``."""
    context.stop_server()
    with VllmServer(config, context.scratch / f"vllm-{config.stem}.log") as vllm:
        vllm.wait_until_ready()
        command = vllm.command()
        theirs = _rounds_of(context, amount, name, VllmWithClient(VLLM, vllm, model))
    ours = _rounds_of(context, amount, name, Ours(OURS, context.server(config), model, SCORING))
    rounds = zip(ours, theirs, peft, strict=True)
    return Part(name, command, tuple((*one, *other, *pipelines) for one, other, pipelines in rounds))


def _rounds_of(context: Context, amount: Amount, name: str, system: System) -> list[list[Burst]]:
    """All rounds of one server, with the lists that the other systems get too."""
    spare, few = Lists(context.seed + 1, PASSAGE_TOKENS), Lists(context.seed + 2, PASSAGE_TOKENS)
    system.rank(spare.take(WARM_UP_LISTS, PASSAGES), WARM_UP_LISTS)
    rounds = []
    for number, crowd in enumerate(_crowds(context, amount)):
        turn = [(CROWD, crowd)]
        if name == LORA and number == 0:
            turn += [(callers, few.take(count, PASSAGES)) for callers, count in amount.few]
        bursts = []
        for callers, lists in turn:
            bursts.append(burst(system, [], lists, callers, spare.take(1, PASSAGES)))
            context.advance(f"{NAME}: {name}, {system.name}, {callers} at a time, nothing else loaded")
        rounds.append(bursts)
    return rounds


def _crowds(context: Context, amount: Amount) -> list[list[List]]:
    """The lists of each round, the same whoever ranks them."""
    lists = Lists(context.seed, PASSAGE_TOKENS)
    return [lists.take(amount.crowd, PASSAGES) for _ in range(amount.rounds)]


def _pipelines(pipeline: PeftPipeline) -> tuple[System, System]:
    return Peft(PEFT_APART, pipeline, "unmerged"), Peft(PEFT_MERGED, pipeline, "merged")


def _merged_config(scratch: Path, target: Target, model: Path) -> Path:
    """The target's settings with the merged model as its base and no adapter."""
    settings = yaml.safe_load(target.config.read_text(encoding="utf-8"))
    settings["model"] |= {"id": MERGED_ID, "source": str(model)}
    del settings["adapters"]
    path = scratch / "merged.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return path


def _agreements(part: Part) -> Iterator[dict[str, Any]]:
    """How far the systems agree on the lists of the crowds, which all of them had."""
    crowds = [
        {one.system: one.rankings for one in turn if one.concurrency == CROWD or "PEFT" in one.system}
        for turn in part.rounds
    ]
    for one, other in ((OURS, VLLM), (OURS, PEFT_APART), (OURS, PEFT_MERGED), (VLLM, PEFT_APART)):
        pairs = [pair for crowd in crowds for pair in zip(crowd[one], crowd[other], strict=False)]
        yield {"part": part.name, "one": one, "other": other} | asdict(agreement(pairs))
