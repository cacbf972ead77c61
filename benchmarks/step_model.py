"""What decoding would take on GPUs that are not at hand: modelled, not measured.

vLLM's real schedulers run, with every choice made by a stub; only the time of a step is made up. A forward
pass takes as long as reading the weights and the cached tokens, or as computing its tokens, whichever is
more. Before and after it comes the time of the host: the scheduler's as measured here, and estimates for
what does not run here (see ``Host``).
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.context import Context
from benchmarks.quartiles import percentile
from benchmarks.report_types import Claim, Table
from dear_serving.sizing.figures import load_figures
from dear_serving.sizing.model import DEFAULT_MODEL, load_model

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import SchedulerOutput

    from benchmarks.stub_engine import StubEngine, Window
    from benchmarks.stub_ways import Way

NAME = "step_model"
TITLE = "Decoding on GPUs: modelled, not measured"

WEIGHT_BYTES = 15.0e9
"""An 8B model in bfloat16, read once a pass."""
FLOPS_A_TOKEN = 15e9
CACHE_BYTES_A_TOKEN = load_model(DEFAULT_MODEL).cache_bytes_a_token
PEAK_SHARE = load_figures().efficiency.compute
"""The part of a GPU's peak FLOP/s that large products reach. Memory is read at its full bandwidth here."""

PASSAGES = 20
PROMPT_TOKENS = 1400
VOCABULARY = 128_256
STICKING = 0.93
"""How much of a token's logit stays all through an answer: about 85 of 100 guesses hold, as on this product's
prompts with the tiny model. What a real reranker's hold is not known."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """Bytes and dense bfloat16 FLOP a second, as the maker says."""

    name: str
    bytes_s: float
    flop_s: float

    def pass_s(self, tokens: int, context: int) -> float:
        """A forward pass over ``tokens`` that reads ``context`` cached tokens."""
        memory_s = (WEIGHT_BYTES + context * CACHE_BYTES_A_TOKEN) / self.bytes_s
        return max(memory_s, tokens * FLOPS_A_TOKEN / (PEAK_SHARE * self.flop_s))

    def floor_s(self, passes: float) -> float:
        """One list alone: its prompt, and passes that do nothing but read the weights."""
        return PROMPT_TOKENS * FLOPS_A_TOKEN / (PEAK_SHARE * self.flop_s) + passes * (
            WEIGHT_BYTES / self.bytes_s
        )


GPUS = tuple(
    Gpu(card.name, card.bytes_s, card.flop_s())
    for card in map(load_figures().gpu, ("a100-80", "h100", "h200"))
)


@dataclass(frozen=True, slots=True)
class Host:
    """Estimates, in seconds, of what a host does besides the scheduler.

    ``runner_s`` makes a pass's inputs and starts it; ``output_s`` brings its tokens back; ``token_s`` sends
    a token of a new request, or of a resumed window's prompt, to the worker.
    """

    runner_s: float = load_figures().host.runner_s
    output_s: float = load_figures().host.output_s
    token_s: float = load_figures().host.token_s


@dataclass(frozen=True, slots=True)
class Decoder:
    """A way of decoding and its settings: steps scheduled ahead or not, drafts a step at most."""

    name: str
    way: str
    ahead: bool = False
    runner: int = 1
    drafts: int = 0


DECODERS = (
    Decoder("resumable", "resumable", runner=2),
    Decoder("resumable, ahead", "resumable", ahead=True, runner=2),
    Decoder("drafted, k=3", "drafted", drafts=3),
    Decoder("drafted, k=7", "drafted", drafts=7),
    Decoder("drafted, k=11", "drafted", drafts=11),
)


@dataclass(frozen=True, slots=True)
class Load:
    """``callers`` that wait for their answer, or, with a rate, ``callers`` lists that arrive at random."""

    callers: int
    rate_s: float | None = None

    @property
    def text(self) -> str:
        """For a table."""
        return f"{self.callers} callers" if self.rate_s is None else f"{self.rate_s:g} lists/s"


LOADS = (Load(1), Load(8), Load(32), Load(64), Load(60, 5.0), Load(120, 10.0))
QUICK_LOADS = (Load(1), Load(8))


class GpuClock:
    """The time on a machine with a GPU, in seconds from 0: the engine's own thread, its worker, the GPU."""

    def __init__(self, gpu: Gpu, host: Host) -> None:
        self._gpu = gpu
        self._host = host
        self._worker_s = self._gpu_s = 0.0
        self._ends: deque[float] = deque()
        self.now_s = self.host_s = self.busy_s = 0.0
        self.passes = 0

    def scheduled(self, step: SchedulerOutput, context: int, schedule_s: float, mask_s: float) -> None:
        """The pass begins when its inputs are made and the GPU is free; masks are made meanwhile."""
        sent = sum(len(new.prompt_token_ids) for new in step.scheduled_new_reqs)
        spent_s = schedule_s + sent * self._host.token_s
        self.now_s += spent_s
        self.host_s += spent_s
        if not step.total_num_scheduled_tokens:
            self._ends.append(self.now_s)
            return
        self.passes += 1
        pass_s = self._gpu.pass_s(step.total_num_scheduled_tokens, context)
        self._worker_s = max(self._worker_s, self.now_s) + self._host.runner_s
        self._gpu_s = max(self._worker_s, self._gpu_s) + pass_s
        self.busy_s += pass_s
        self.now_s += mask_s
        self._gpu_s = max(self._gpu_s, self.now_s)  # sampling needs the masks
        self._ends.append(self._gpu_s + self._host.output_s)

    def processed(self, update_s: float) -> None:
        """The tokens are there, and the scheduler reads them."""
        self.now_s = max(self.now_s, self._ends.popleft()) + update_s
        self.host_s += update_s


def steps(quick: bool) -> int:
    """One a GPU and decoder."""
    return len(DECODERS) * (1 if quick else len(GPUS))


def run(context: Context) -> dict[str, Any]:
    """Every GPU with every decoder under every load."""
    cells = []
    for gpu in GPUS[1:2] if context.quick else GPUS:
        for decoder in DECODERS:
            text = f"{NAME}: {gpu.name}, {decoder.name}"
            context.show(text)
            for load in QUICK_LOADS if context.quick else LOADS:
                cells.append(model(gpu, decoder, load, context.seed))
            context.advance(text)
    return {"host": asdict(Host()), "cells": cells}


def model(gpu: Gpu, decoder: Decoder, load: Load, seed: int) -> dict[str, Any]:
    """One cell: requests/s, latencies, passes a list, and where the time went."""
    from benchmarks import stub_ways
    from benchmarks.stub_engine import Limits
    from benchmarks.stub_runner import StubModel

    way = {"resumable": stub_ways.RESUMABLE, "drafted": stub_ways.DRAFTED}[decoder.way]
    clock = GpuClock(gpu, Host())
    limits = Limits(
        max_num_seqs=128,
        max_num_batched_tokens=2048,
        max_model_len=2048,
        num_blocks=12_000,
        block_size=16,
        vocabulary=VOCABULARY,
        ahead=decoder.ahead,
        runner=decoder.runner,
        drafts=decoder.drafts,
        policy=(("free_chance", 0.0), ("uniform", True)),
    )
    engine = way.start(limits, StubModel(sticking=STICKING), clock)
    latencies_s = _serve(engine, way, clock, load, random.Random(seed))
    lists = len(latencies_s)
    return {
        "gpu": gpu.name,
        "decoder": decoder.name,
        "load": load.text,
        "lists": lists,
        "lists_s": lists / clock.now_s,
        "p50_s": percentile(latencies_s, 0.5),
        "p95_s": percentile(latencies_s, 0.95),
        "outputs": sum(answer.outputs for answer in engine.answers.values()) / lists,
        "pass_ms": clock.busy_s / clock.passes * 1e3,
        "host_ms": clock.host_s / clock.passes * 1e3,
        "floor_s": gpu.floor_s(sum(answer.outputs for answer in engine.answers.values()) / lists),
    }


def _serve(engine: StubEngine, way: Way, clock: GpuClock, load: Load, rng: random.Random) -> list[float]:
    """Latencies of the lists, seconds. Callers send three lists each, one after another."""
    due: list[tuple[float, int]] = []
    if load.rate_s is None:
        left = 3 * load.callers
        due = [(0.0, number) for number in range(load.callers)]
    else:
        left, at_s = load.callers, 0.0
        for number in range(load.callers):
            at_s += rng.expovariate(load.rate_s)
            due.append((at_s, number))
    left -= len(due)
    sent: dict[str, float] = {}
    latencies_s: list[float] = []
    number = len(due)
    while due or sent:
        if not sent and due[0][0] > clock.now_s:
            clock.now_s = due[0][0]
        while due and due[0][0] <= clock.now_s:
            at_s, which = heapq.heappop(due)
            window = _window(which, rng)
            sent[window.request_id] = at_s
            engine.add(way.request(engine, window))
        engine.step()
        for request_id in [one for one in sent if engine.answers[one].ended]:
            latencies_s.append(clock.now_s - sent.pop(request_id))
            if load.rate_s is None and left:
                heapq.heappush(due, (clock.now_s, number))
                number, left = number + 1, left - 1
    return latencies_s


def _window(number: int, rng: random.Random) -> Window:
    """A list with a prompt of its own."""
    from benchmarks.stub_engine import Window

    prompt = [rng.randrange(1000, VOCABULARY) for _ in range(PROMPT_TOKENS)]
    identifiers = tuple((token,) for token in range(100, 100 + PASSAGES))
    return Window(f"w{number}", prompt, identifiers, (60, 61, 62), PASSAGES)


def tables(result: dict[str, Any]) -> list[Table]:
    """A table a GPU."""
    note = (
        f"MODELLED, NOT MEASURED: no GPU was used. 8B in bfloat16, {PASSAGES} passages in {PROMPT_TOKENS} "
        "prompt tokens, nothing shared between prompts. vLLM's scheduler runs as it is, timed on this "
        "machine; a pass is the longer of reading weights and cache and of computing its tokens at "
        f"{PEAK_SHARE:.0%} of peak; other host work is estimated, in seconds: {result['host']}. About 85 of "
        "100 guesses hold, by assumption. Floor: one list alone, with the row's passes and no host."
    )
    columns = (
        "decoder",
        "load",
        "lists/s",
        "p50 s",
        "p95 s",
        "floor s",
        "passes a list",
        "GPU ms a pass",
        "scheduler ms",
    )
    return [
        Table(
            f"{gpu}: modelled, not measured",
            note,
            columns,
            tuple(
                (
                    cell["decoder"],
                    cell["load"],
                    f"{cell['lists_s']:.1f}",
                    f"{cell['p50_s']:.2f}",
                    f"{cell['p95_s']:.2f}",
                    f"{cell['floor_s']:.2f}",
                    f"{cell['outputs']:.1f}",
                    f"{cell['pass_ms']:.1f}",
                    f"{cell['host_ms']:.1f}",
                )
                for cell in result["cells"]
                if cell["gpu"] == gpu
            ),
        )
        for gpu in dict.fromkeys(cell["gpu"] for cell in result["cells"])
    ]


def claims(result: dict[str, Any]) -> list[Claim]:
    """None: nothing here was measured."""
    return []


def plot(result: dict[str, Any], folder: Path) -> list[Path]:
    """None."""
    return []
