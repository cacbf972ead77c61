"""Permutation decoding on the real engine: orders, other requests beside it, leaving, short memory."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml
from prometheus_client import REGISTRY

from configs.demo.maker.lists import ListShape, ranking_lists
from configs.demo.maker.relevance import BASE
from dear_serving.adapters.template_files import load_template
from dear_serving.gateway.tokenizer import BaseTokenizer
from dear_serving.protocol import DecodedWindow, PermutationRequest
from dear_serving.ranking.prompts import PromptBuilder
from dear_serving.replica.kv_admission import KvAdmission
from dear_serving.replica.self_check import NEAR_TIE, Difference, difference
from dear_serving.replica.window_decoder import Decoder, Undecodable, masked_steps
from dear_serving.settings import Settings
from dear_serving.types import RankTask

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.asyncio(loop_scope="module"),
]

MODELS = (None, "legal", "medical")
_numbers = iter(range(1_000_000))


class Engine:
    """vLLM as the product configures it, without Ray around it."""

    def __init__(self, client: Any, settings: Settings) -> None:
        from vllm.lora.request import LoRARequest

        self.client = client
        config = client.vllm_config
        self.block_size = config.cache_config.block_size
        self.blocks = config.cache_config.num_gpu_blocks
        self.sessions = KvAdmission(
            max_open=config.scheduler_config.max_num_seqs, blocks=self.blocks, block_size=self.block_size
        )
        self.decoder = Decoder(client, self.sessions, settings.engine.decoding)
        self.naive = Decoder(client, self.sessions, settings.engine.decoding)
        self.naive.decoding = "ordinary"
        self.loras: dict[str | None, Any] = {
            adapter.name: LoRARequest(adapter.name, number, str(settings.adapters.root / adapter.path))
            for number, adapter in enumerate(settings.adapters.serve, start=1)
        }
        self.loras[None] = None

    async def rank(self, request: PermutationRequest, decoder: Decoder | None = None) -> DecodedWindow:
        windows = (decoder or self.decoder).decode(request, self.loras[request.adapter])
        async with contextlib.aclosing(windows):
            return await anext(windows)

    async def from_naive(self, request: PermutationRequest) -> Difference | None:
        """Where the order of a window leaves that of one ordinary request a choice."""
        order, lora = (await self.rank(request)).order, self.loras[request.adapter]
        return await difference(order, self.client, request, lora, masked_steps)

    async def left_in_engine(self) -> dict[str, float]:
        """Requests and memory that vLLM still holds, by its own account after one more request."""
        await self.rank(window_of(4, 0, needed=0))
        assert not self.client.output_processor.request_states
        names = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")
        samples = [s for family in REGISTRY.collect() for s in family.samples if s.name in names]
        assert {sample.name for sample in samples} == set(names)
        return {sample.name: sample.value for sample in samples}


@asynccontextmanager
async def started(settings: Settings, **engine_kwargs: Any) -> AsyncIterator[Engine]:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    from dear_serving.app import engine_environment, llm_config

    config = llm_config(settings)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in engine_environment(settings).items():
            patch.setenv(name, value)
        patch.setenv("VLLM_LOGGING_LEVEL", "ERROR")
        # A library that vLLM checks grammars with has YAML read dates as text, in the whole process.
        constructors, date = yaml.SafeLoader.yaml_constructors, "tag:yaml.org,2002:timestamp"
        patch.setitem(constructors, date, constructors[date])
        kwargs = {"model": settings.model.source} | config.engine_kwargs | engine_kwargs
        client = await asyncio.to_thread(AsyncLLM.from_engine_args, AsyncEngineArgs(**kwargs))
        try:
            yield Engine(client, settings)
        finally:
            client.shutdown()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(settings: Settings) -> AsyncIterator[Engine]:
    async with started(settings) as engine:
        yield engine


_builders: list[PromptBuilder] = []


@pytest.fixture(autouse=True, scope="module")
def builder(tokenizer: BaseTokenizer) -> None:
    _builders[:] = [PromptBuilder(load_template("plain", None), tokenizer, 4096)]


def window_of(
    count: int, seed: int, adapter: str | None = None, needed: int | None = None, **options: Any
) -> PermutationRequest:
    """A window of invented passages, as the gateway sends it."""
    (builder,) = _builders
    (one,) = islice(ranking_lists(seed, ListShape(count, count), True, BASE), 1)
    prompt = builder.prepare(RankTask(one.query, one.passages)).window(range(count))
    return PermutationRequest(
        [*prompt, *builder.answer.opening],
        builder.answer.identifiers[:count],
        builder.answer.separator,
        count if needed is None else needed,
        adapter,
        f"window-{next(_numbers)}",
        **options,
    )


def cut(request: PermutationRequest, part: slice) -> PermutationRequest:
    """The window with a part of its prompt."""
    return replace(request, token_ids=request.token_ids[part])


def named(request: PermutationRequest) -> PermutationRequest:
    """The window again, as another request."""
    return replace(request, request_id=f"window-{next(_numbers)}")


async def in_groups(calls: Sequence[Any], size: int) -> list[Any]:
    """Awaited ``size`` at a time."""
    return [
        result
        for start in range(0, len(calls), size)
        for result in await asyncio.gather(*calls[start : start + size])
    ]


@pytest.mark.parametrize("count", [24, pytest.param(200, marks=pytest.mark.long)])
async def test_windows_have_the_order_of_one_ordinary_request_a_choice(engine: Engine, count: int) -> None:
    generator = random.Random(0)
    requests = [window_of(generator.randint(2, 12), seed, generator.choice(MODELS)) for seed in range(count)]
    differences = await in_groups(
        [engine.from_naive(one) for one in requests],
        20,
    )
    found = [difference for difference in differences if difference is not None]
    assert all(difference.near_tie for difference in found), found
    assert len(found) <= max(2, count // 20), found


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_in_float32_every_order_is_that_of_one_ordinary_request_a_choice(settings: Settings) -> None:
    async with started(settings, dtype="float32") as engine:
        generator = random.Random(1)
        requests = [
            window_of(generator.randint(2, 20), seed, generator.choice(MODELS)) for seed in range(1000)
        ]
        ours = await in_groups([engine.rank(one) for one in requests], 32)
        naive = await in_groups([engine.rank(named(one), engine.naive) for one in requests], 32)
    assert sum(one.order != other.order for one, other in zip(ours, naive, strict=True)) == 0


@pytest.mark.parametrize("count", [16, pytest.param(64, marks=pytest.mark.long)])
async def test_a_window_is_ranked_the_same_alone_and_in_a_burst_of_mixed_adapters(
    engine: Engine, count: int
) -> None:
    cases = [(seed, MODELS[seed % 3]) for seed in range(count)]
    alone = [await engine.rank(window_of(8, seed, adapter)) for seed, adapter in cases]
    burst = await asyncio.gather(*(engine.rank(window_of(8, seed, adapter)) for seed, adapter in cases))
    for one, other in zip(alone, burst, strict=True):
        assert other.log_probs == pytest.approx(one.log_probs, abs=NEAR_TIE)
    same = sum(one.order == other.order for one, other in zip(alone, burst, strict=True))
    assert same >= count - 2
    of_base = [window.order for window in alone[::3]]
    of_legal = [(await engine.rank(window_of(8, seed, "legal"))).order for seed in range(0, count, 3)]
    assert of_base != of_legal  # what a mix-up would give is something else


@pytest.mark.parametrize(("needed", "passes"), [(0, 1), (1, 1), (5, 5), (9, 9), (10, 9)])
async def test_a_ranked_passage_costs_at_most_a_forward_pass(
    engine: Engine, needed: int, passes: int
) -> None:
    whole = await engine.rank(window_of(10, 3))
    window = await engine.rank(window_of(10, 3, needed=needed))
    assert window.usage.completion_tokens == passes
    assert 0 < window.usage.passes <= passes
    assert window.decided == needed
    assert window.order[:needed] == whole.order[:needed]
    rest = window.order[needed:]
    assert list(rest) == sorted(rest, key=lambda at: (-window.log_probs[at], at))
    assert sorted(window.order) == list(range(10))


async def test_identifiers_of_several_tokens_are_chosen_token_by_token(
    engine: Engine, tokenizer: BaseTokenizer
) -> None:
    digits = [tokenizer.encode(str(digit)) for digit in range(10)]
    identifiers = tuple(tuple(t for digit in str(i) for t in digits[int(digit)]) for i in range(12))
    request = window_of(12, 5)
    request = PermutationRequest(request.token_ids, identifiers, request.separator, 12, "legal", "digits")
    ours, other = await engine.rank(request), await engine.rank(request, engine.naive)
    assert sorted(ours.order) == list(range(12))
    assert ours.order == other.order
    assert ours.usage.completion_tokens == other.usage.completion_tokens > 11


async def test_a_window_of_as_many_passages_as_there_may_be(engine: Engine) -> None:
    # So many invented passages do not fit: the beginning of the prompt will do.
    requests = [cut(window_of(128, 2, model), slice(512)) for model in MODELS]
    ours = await asyncio.gather(*map(engine.rank, requests))
    for request, window in zip(requests, ours, strict=True):
        assert sorted(window.order) == list(range(128))
        assert window.usage.completion_tokens >= 127
        assert window.usage.passes < window.usage.completion_tokens
        assert (await engine.rank(request, engine.naive)).order == window.order


async def test_free_text_and_grammars_run_beside_windows_and_change_nothing(engine: Engine) -> None:
    """The text has log probabilities, as OpenAI callers ask for; the choice goes through xgrammar."""
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    forms: list[dict[str, Any]] = [
        {"choice": ["passage", "query"]},
        {"regex": "[a-z]{3,5}!"},
        {"grammar": 'root ::= "passage" | "query" root'},
    ]

    async def text(number: int) -> str:
        form = StructuredOutputsParams(**forms[number // 2]) if number % 2 else None
        parameters = SamplingParams(temperature=0, max_tokens=24, logprobs=5, structured_outputs=form)
        prompt = {"prompt_token_ids": list(range(40, 100 + number))}
        outputs = engine.client.generate(prompt, parameters, f"text-{next(_numbers)}", lora_request=None)
        written = [output async for output in outputs][-1].outputs[0]
        assert len(written.logprobs) == len(written.token_ids)
        return str(written.text)

    windows = [window_of(12, seed, MODELS[seed % 3]) for seed in range(12)]
    alone = [await engine.rank(one) for one in windows], [await text(number) for number in range(6)]
    together = await asyncio.gather(*(map(engine.rank, windows)), *(text(number) for number in range(6)))
    assert together[13] in {"passage", "query"}
    assert re.fullmatch("[a-z]{3,5}!", str(together[15]))
    assert re.fullmatch("(query)*(passage)?", str(together[17]))
    same = sum(one.order == other.order for one, other in zip(alone[0], together[:12], strict=True))
    assert same >= 11  # of a near tie
    assert sum(one == other for one, other in zip(alone[1], together[12:], strict=True)) >= 5


async def test_sampled_text_beside_windows_changes_nothing(engine: Engine) -> None:
    """As OpenAI callers send it, who name no temperature."""
    from vllm import SamplingParams

    async def text(number: int) -> None:
        parameters = SamplingParams(temperature=1.0, top_p=0.9, top_k=50, max_tokens=40, ignore_eos=True)
        prompt = {"prompt_token_ids": list(range(40, 100 + number))}
        async for _ in engine.client.generate(prompt, parameters, f"sampled-{next(_numbers)}"):
            pass

    windows = [window_of(12, seed, MODELS[seed % 3]) for seed in range(12)]
    alone = [(await engine.rank(one)).order for one in windows]
    texts = [asyncio.create_task(text(number)) for number in range(6)]
    beside = await asyncio.gather(*(engine.rank(named(one)) for one in windows))
    await asyncio.gather(*texts)
    assert sum(one.order == order for one, order in zip(beside, alone, strict=True)) >= 11  # near ties


async def test_a_prompt_that_is_cached_up_to_its_last_token_is_ranked_the_same(engine: Engine) -> None:
    """vLLM pads such a request's first step with drafts of its own, if windows run beside it."""
    request = cut(window_of(12, 4, "legal"), slice(-engine.block_size - 1, None))
    first = await engine.rank(named(request))
    beside = [asyncio.create_task(engine.rank(window_of(20, seed))) for seed in range(4)]
    again = []
    for _ in range(8):
        again.append((await engine.rank(named(request))).order)
        await asyncio.sleep(0.01)
    await asyncio.gather(*beside)
    assert set(again) == {first.order}


@pytest.mark.parametrize(
    "extra_args",
    [
        {"dear_window": None},
        {"dear_window": "x"},
        {"dear_window": [[[10**9], [2]], [3], 1]},
        {"dear_window": [[[1], [1, 2]], [2, 3], 2]},
    ],
)
async def test_a_window_of_no_sense_ends_with_an_error_and_the_engine_goes_on(
    engine: Engine, extra_args: dict[str, Any]
) -> None:
    from vllm import SamplingParams

    parameters = SamplingParams(temperature=0, max_tokens=9, logprobs=2, extra_args=extra_args)
    outputs = engine.client.generate({"prompt_token_ids": [50, 51]}, parameters, f"bad-{next(_numbers)}")
    async with asyncio.timeout(20):
        last = [output async for output in outputs][-1]
    if extra_args["dear_window"] is not None:
        assert last.outputs[0].finish_reason == "error"
    assert sorted((await engine.rank(window_of(6, 1))).order) == list(range(6))


async def test_an_adapter_that_gives_no_numbers_ends_its_windows_and_no_others(
    engine: Engine, tmp_path: Path, settings: Settings
) -> None:
    import shutil

    import torch
    from safetensors.torch import load_file, save_file
    from vllm.lora.request import LoRARequest

    folder = tmp_path / "broken"
    shutil.copytree(settings.adapters.root / "legal", folder)
    weights = load_file(folder / "adapter_model.safetensors")
    save_file(
        {name: torch.full_like(one, torch.nan) for name, one in weights.items()},
        folder / "adapter_model.safetensors",
    )
    engine.loras["broken"] = LoRARequest("broken", 99, str(folder))
    good = [window_of(10, seed, MODELS[seed % 3]) for seed in range(6)]
    alone = [(await engine.rank(one)).order for one in good]
    bad = [engine.rank(window_of(10, seed, "broken")) for seed in range(4)]
    broken = asyncio.gather(*bad, return_exceptions=True)
    for _ in range(3):  # later ones get the cache blocks that the broken ones had
        found = [(await engine.rank(named(one))).order for one in good]
        assert sum(one == other for one, other in zip(found, alone, strict=True)) >= 5
    assert all(isinstance(one, Undecodable) for one in await broken)


async def test_ranks_are_told_as_they_are_decided(engine: Engine) -> None:
    request = window_of(10, 7, "medical")
    windows = [one async for one in engine.decoder.decode(request, engine.loras["medical"], every_rank=True)]
    assert len(windows) > 1
    assert [one.decided for one in windows] == sorted({one.decided for one in windows})
    last = windows[-1]
    assert last.decided == 10
    for one in windows:
        assert one.order[: one.decided] == last.order[: one.decided]
        assert one.log_probs == last.log_probs


async def test_a_deadline_gives_what_was_decided(engine: Engine) -> None:
    # The fastest of several, its prompt cached: half of its time is never enough for all ranks.
    wholes = [await engine.rank(window_of(20, 11)) for _ in range(4)]
    whole = min(wholes, key=lambda window: window.usage.engine_ms)
    window = await engine.rank(window_of(20, 11, deadline_s=whole.usage.engine_ms / 2e3))
    assert 0 < window.decided < 20
    assert window.order[: window.decided] == whole.order[: window.decided]
    assert sorted(window.order) == list(range(20))
    left = await engine.left_in_engine()
    assert left["vllm:num_requests_running"] == left["vllm:num_requests_waiting"] == 0


async def test_windows_that_are_left_leave_nothing_in_the_engine(engine: Engine) -> None:
    tasks = [asyncio.create_task(engine.rank(window_of(20, seed, MODELS[seed % 3]))) for seed in range(24)]
    for number, task in enumerate(tasks):
        if number % 3:
            await asyncio.sleep(0.01)
        task.cancel()
    assert all(
        isinstance(result, asyncio.CancelledError)
        for result in await asyncio.gather(*tasks, return_exceptions=True)
    )
    left = await engine.left_in_engine()
    assert left["vllm:num_requests_running"] == left["vllm:num_requests_waiting"] == 0
    assert left["vllm:kv_cache_usage_perc"] < 0.01
    async with engine.sessions.hold(engine.blocks * engine.block_size, 0):
        pass  # all room is free again


@pytest.mark.long
async def test_more_windows_than_memory_wait_for_each_other_and_finish(settings: Settings) -> None:
    """Without KvAdmission vLLM stalls here: windows between two chunks keep their blocks, none goes on."""
    async with started(settings, num_gpu_blocks_override=34) as engine:
        assert engine.blocks <= 34
        requests = [window_of(20, seed, MODELS[seed % 3]) for seed in range(24)]
        wanted = sum(len(request.token_ids) + 80 for request in requests) / engine.block_size
        assert wanted > 2 * engine.blocks
        async with asyncio.timeout(200):
            windows = await asyncio.gather(*map(engine.rank, requests))
    assert all(sorted(window.order) == list(range(20)) for window in windows)
    assert max(window.usage.queue_ms for window in windows) > 0
