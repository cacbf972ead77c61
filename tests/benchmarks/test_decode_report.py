"""What the decode benchmark reads out of its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import decode
from benchmarks.decode_report import FIRST, FREE, OWN_FREE, PERMUTATION, TOP


def a_round(wall_s: float, engine_ms: float, steps: int, requests: int = 1) -> dict[str, Any]:
    return {
        "wall_s": wall_s,
        "engine_steps": steps * requests,
        "latencies_ms": [wall_s * 1e3] * requests,
        "engine_ms": [engine_ms] * requests,
        "prompt_tokens": [640] * requests,
        "completion_tokens": [steps] * requests,
    }


def a_cell(concurrency: int, passage_tokens: int = 24) -> dict[str, Any]:
    """20 passages: the prompt takes 100 ms, a step 10 ms; the machine is half as fast in the second one."""

    def rounds(steps: int) -> list[dict[str, Any]]:
        ms = 100.0 + 10.0 * (steps - 1)
        return [a_round(slow * (ms + 5) / 1e3, slow * ms, steps, concurrency) for slow in (1, 2)]

    return {
        "passages": 20,
        "concurrency": concurrency,
        "rounds": 2,
        "passage_tokens": passage_tokens,
        "prompt_tokens": 640.0,
        "arms": {
            PERMUTATION: rounds(20),
            TOP: rounds(5),
            FREE: rounds(79),
            OWN_FREE: rounds(96)[:1],
            FIRST: rounds(1),
        },
    }


@pytest.fixture
def result() -> dict[str, Any]:
    """One caller, and 32 with prompts of two lengths."""
    return {
        "model": "legal",
        "source": "somewhere",
        "prefix_cache_share": 0.0,
        "cells": [a_cell(1), a_cell(32), a_cell(32, passage_tokens=8)],
    }


def test_claims_are_ratios_of_pairs_steps_and_decode_times(result: dict[str, Any]) -> None:
    passes, alone, top_n, *crowds = decode.claims(result)
    assert (passes.value, passes.target, passes.met) == (1.0, 0.6, False)
    assert alone.value == pytest.approx((880 + 5) / (290 + 5))
    assert top_n.value == pytest.approx(190 / 40)
    assert [crowd.target for crowd in crowds] == [2.0, 2.0]


def test_a_smoke_run_claims_only_what_it_measured(result: dict[str, Any]) -> None:
    result["cells"] = [cell for cell in result["cells"] if cell["concurrency"] == 1]
    assert len(decode.claims(result)) == 3


def test_tables_have_a_cell_for_every_column(result: dict[str, Any]) -> None:
    for table in decode.tables(result):
        assert table.rows
        assert {len(row) for row in table.rows} == {len(table.columns)}


def test_free_generation_takes_a_step_a_token(result: dict[str, Any]) -> None:
    passes = next(table for table in decode.tables(result) if table.title == "Forward passes")
    assert ("20", FREE, "79", "79", "3.95") in passes.rows


def test_plots_are_written(result: dict[str, Any], tmp_path: Path) -> None:
    for path in decode.plot(result, tmp_path):
        assert path.read_bytes().startswith(b"\x89PNG")
