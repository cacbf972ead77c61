"""The report on the ways of decoding, from recorded figures; and what a pass costs by a model's shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import decoders, step_model
from benchmarks.decode_report import FIRST, FREE, PERMUTATION
from benchmarks.decoders import Way, pass_cost, write_config
from benchmarks.decoders_report import floor_s, passes_a_list, prefill_share
from benchmarks.shapes import SHAPES
from benchmarks.target import Target
from dear_serving.settings import load_settings


def a_round(ms: float, passes: int, callers: int) -> dict[str, Any]:
    return {
        "wall_s": ms / 1e3,
        "engine_steps": passes * callers,
        "passes": passes * callers,
        "latencies_ms": [ms] * callers,
        "engine_ms": [ms] * callers,
        "prompt_tokens": [1000] * callers,
        "completion_tokens": [19] * callers,
    }


def a_cell(way: str, callers: int, free: bool) -> dict[str, Any]:
    """Twenty passages in 10 passes, 300 ms; the prompt alone 150 ms, free text 900 ms."""
    rounds = {PERMUTATION: (300, 10), FIRST: (150, 1)} | ({FREE: (900, 79)} if free else {})
    return {
        "way": way,
        "passages": 20,
        "concurrency": callers,
        "prompt_tokens": 1000.0,
        "arms": {arm: [a_round(ms, passes, callers)] * 2 for arm, (ms, passes) in rounds.items()},
    }


@pytest.fixture
def result() -> dict[str, Any]:
    """A machine that reads the weights in 5 ms, and computes a prompt in 50 ms."""
    return {
        "model": "legal",
        "source": "somewhere",
        "rates": {"device": "CPU, 2 threads", "bytes_s": 10e9, "flop_s": 1e12},
        "pass": {"weight_bytes": 50e6, "flop_a_token": 50e6},
        "cells": [a_cell("drafted, k=11", 1, True), a_cell("resumable", 8, False)],
    }


def test_a_floor_is_every_prompt_and_the_weights_once_a_pass(result: dict[str, Any]) -> None:
    alone, eight = result["cells"]
    assert passes_a_list(eight) == 10
    assert prefill_share(alone) == 0.5
    assert floor_s(result, alone) == pytest.approx(0.05 + 10 * 0.005)
    assert floor_s(result, eight) == pytest.approx(8 * 0.05 + 10 * 0.005)


def test_tables_have_a_cell_for_every_column(result: dict[str, Any]) -> None:
    speed, floors = decoders.tables(result)
    for table in (speed, floors):
        assert {len(row) for row in table.rows} == {len(table.columns)}
    assert speed.rows[0][-4:] == ("10.0", "0.50", "50%", "3.00x (3.00 to 3.00)")
    assert speed.rows[1][-2:] == ("", "")
    assert floors.rows[0][-3:] == ("300", "100", "3.0x")


def test_a_pass_of_8b_costs_what_the_step_model_says(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SHAPES["8b"].config()))
    cost = pass_cost(tmp_path)
    assert cost["weight_bytes"] == pytest.approx(step_model.WEIGHT_BYTES, rel=0.01)
    assert cost["flop_a_token"] == pytest.approx(step_model.FLOPS_A_TOKEN, rel=0.1)


@pytest.mark.parametrize("way", decoders.ALL, ids=lambda way: way.name)
def test_a_way_is_the_targets_settings_with_another_decoding(tmp_path: Path, way: Way) -> None:
    settings = load_settings(write_config(tmp_path, Target(), way))
    default = load_settings(Target().config)
    assert settings.engine.decoding == way.decoding
    assert settings.engine.max_drafts == (way.drafts or default.engine.max_drafts)
    assert settings.adapters == default.adapters.model_copy(
        update={"store": settings.adapters.store, "cache": settings.adapters.cache}
    )
    assert yaml.safe_load((tmp_path / f"{way.decoding}-{way.drafts}.yaml").read_text())["model"]
