"""The whole decoding stack on a model as wide as Llama-3.1-8B, two layers deep, with random weights."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio
import yaml

from benchmarks.shapes import SHAPES, write_adapter, write_model
from configs.demo.maker.lists import ListShape, ranking_lists
from dear_serving.adapters.intake import intake
from dear_serving.adapters.preflight import base_shape, base_source, check_models
from dear_serving.adapters.template_files import load_template
from dear_serving.gateway.tokenizer import load_tokenizer
from dear_serving.protocol import PermutationRequest
from dear_serving.ranking.prompts import PromptBuilder
from dear_serving.settings import Settings, load_settings
from dear_serving.types import RankTask
from tests.conftest import CPU_CONFIG
from tests.e2e.own_server.test_real_engine import Engine, started

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.long,
    pytest.mark.timeout(600),
    pytest.mark.asyncio(loop_scope="module"),
]

WIDE = replace(SHAPES["8b"], layers=2)
PASSAGES = 20
MOST_GIB = 10.5


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What was measured; written to real_width.json in pytest's folder of this run."""
    found: dict[str, Any] = {}
    yield found
    (tmp_path_factory.getbasetemp() / "real_width.json").write_text(json.dumps(found, indent=1))


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The CPU default with the wide model and one adapter, random ones."""
    folder = tmp_path_factory.mktemp("wide")
    base = write_model(folder / "base", WIDE)
    write_adapter(folder / "adapters" / "random", base)
    data = yaml.safe_load(CPU_CONFIG.read_text())
    data["model"]["source"] = "base"
    data["adapters"] = {"root": "adapters", "serve": [{"name": "random", "path": "random"}]}
    data["engine"]["engine_kwargs"]["max_model_len"] = 2048
    (folder / "config.yaml").write_text(yaml.safe_dump(data))
    return load_settings(folder / "config.yaml")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(wide: Settings) -> AsyncIterator[Engine]:
    async with started(wide) as engine:
        yield engine


@pytest.fixture(scope="module")
def windows(wide: Settings) -> list[PermutationRequest]:
    """Windows of the product's prompt, for the base and the adapter in turn."""
    builder = PromptBuilder(load_template("plain", None), load_tokenizer(base_source(wide), None), 2048)
    lists = islice(ranking_lists(5, ListShape(PASSAGES, PASSAGES)), 8)
    return [
        PermutationRequest(
            [
                *builder.prepare(RankTask(one.query, one.passages)).window(range(PASSAGES)),
                *builder.answer.opening,
            ],
            builder.answer.identifiers[:PASSAGES],
            builder.answer.separator,
            PASSAGES,
            (None, "random")[number % 2],
            f"wide-{number}",
        )
        for number, one in enumerate(lists)
    ]


async def test_preflight_and_intake_accept_the_adapter(wide: Settings) -> None:
    check_models(wide)
    content = intake(wide, base_shape(base_source(wide))).take("random", "random")
    assert content.rank == 16
    assert content.size_bytes > 2 * 16 * 2 * (7 * WIDE.hidden)


async def test_windows_have_the_order_of_one_ordinary_request_a_choice(
    engine: Engine, windows: list[PermutationRequest], figures: dict[str, Any]
) -> None:
    """The last two choose among the last tokens of the vocabulary."""
    last = tuple((WIDE.vocabulary - 1 - number,) for number in range(PASSAGES))
    cases = [
        *windows,
        *(replace(one, identifiers=last, request_id=f"last-{one.request_id}") for one in windows[:2]),
    ]
    differences = await asyncio.gather(*map(engine.from_naive, cases))
    found = [one for one in differences if one is not None]
    figures["orders that differ"] = f"{found} of {len(cases)}"
    assert all(one.near_tie for one in found), found
    assert len(found) <= 2, found


async def test_the_adapter_changes_orders_and_guesses_save_passes(
    engine: Engine, windows: list[PermutationRequest], figures: dict[str, Any]
) -> None:
    named = [replace(one, request_id=f"again-{one.request_id}") for one in windows]
    other = [replace(one, adapter="random", request_id=f"other-{one.request_id}") for one in windows[::2]]
    started_s = time.perf_counter()
    ranked = await asyncio.gather(*map(engine.rank, named))
    took_s = time.perf_counter() - started_s
    changed = await asyncio.gather(*map(engine.rank, other))
    assert all(sorted(one.order) == list(range(PASSAGES)) for one in ranked)
    assert [one.order for one in ranked[::2]] != [one.order for one in changed]
    passes = [one.usage.passes / one.usage.completion_tokens for one in ranked]
    figures |= {"windows at once": len(named), "seconds": took_s, "passes a choice": passes}
    assert max(passes) <= 1


async def test_the_engine_stays_within_its_memory(engine: Engine, figures: dict[str, Any]) -> None:
    """Peak of the engine's processes: weights, 1 GiB of cache, and the logits of its warm-up."""
    peak_gib = sum(map(_peak_gib, psutil.Process().children(recursive=True)))
    figures["GiB"] = peak_gib
    assert 0 < peak_gib < MOST_GIB


def _peak_gib(process: psutil.Process) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text()
    line = next((line for line in status.splitlines() if line.startswith("VmHWM:")), "VmHWM: 0 kB")
    return int(line.split()[1]) / 2**20
