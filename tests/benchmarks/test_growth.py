"""What the growth benchmark reads out of its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import growth


def answers(count: int, queue_ms: float, engine_ms: float, rest_ms: float) -> list[dict[str, Any]]:
    one: dict[str, Any] = {
        "wall_ms": queue_ms + engine_ms + rest_ms,
        "queue_ms": queue_ms,
        "engine_ms": engine_ms,
        "rest_ms": rest_ms,
        "prompt_tokens": 640,
        "windows": 1,
        "strategy": "single",
    }
    return [one] * count


@pytest.fixture
def result() -> dict[str, Any]:
    """5 and 20 passages with one caller, 20 with four; the prompt alone takes 80 ms of 100."""
    cells = [
        {
            "passages": passages,
            "concurrency": concurrency,
            "ranked": answers(3, 1.0, 100.0, rest_ms),
            "first_token": answers(2, 1.0, 80.0, rest_ms),
        }
        for passages, concurrency, rest_ms in ((5, 1, 9.0), (20, 1, 18.0), (20, 4, 30.0))
    ]
    return {"model": "legal", "source": "somewhere", "empty_ms": [3.0, 4.0], "cells": cells}


def test_parts_add_up_to_the_wall_time(result: dict[str, Any]) -> None:
    parts = growth.parts_ms(result["cells"][0])
    assert list(parts.values()) == [1.0, 80.0, 20.0, 9.0]
    assert sum(parts.values()) == result["cells"][0]["ranked"][0]["wall_ms"]


def test_windows_that_ran_at_once_count_the_wall_time_once(result: dict[str, Any]) -> None:
    cell = result["cells"][0] | {"ranked": answers(1, 60.0, 100.0, -40.0)}
    assert list(growth.parts_ms(cell).values()) == [20.0, 80.0, 20.0, 0.0]


def test_overhead_is_claimed_at_one_caller_alone(result: dict[str, Any]) -> None:
    claims = growth.claims(result)
    assert [(claim.value, claim.met) for claim in claims] == [(9.0, True), (18.0, False)]


def test_joint_is_held_against_sliding_where_both_ranked_the_long_list(result: dict[str, Any]) -> None:
    for strategy, engine_ms in (("sliding", 999.0), ("joint", 399.0)):
        ranked = [one | {"strategy": strategy} for one in answers(2, 0.0, engine_ms, 1.0)]
        result["cells"].append({**result["cells"][0], "passages": 100, "ranked": ranked})
    claim = growth.claims(result)[-1]
    assert (claim.value, claim.met) == (0.4, True)
    result["cells"].pop()
    assert "joint" not in growth.claims(result)[-1].text


def test_tables_have_a_cell_for_every_column(result: dict[str, Any]) -> None:
    for table in growth.tables(result):
        assert table.rows
        assert {len(row) for row in table.rows} == {len(table.columns)}


def test_plots_are_written(result: dict[str, Any], tmp_path: Path) -> None:
    for path in growth.plot(result, tmp_path):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_enough_requests_for_the_claimed_median() -> None:
    cells = {cell.passages: cell for cell in growth.CELLS if cell.concurrency == 1}
    assert all(cells[passages].requests >= 60 for passages in growth.OVERHEAD_LENGTHS)
