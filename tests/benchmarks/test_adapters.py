"""What the adapters benchmark writes and reads; the server accepts its settings file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import adapters
from benchmarks.target import Target
from dear_serving.adapters.preflight import check_models
from dear_serving.settings import load_settings


@pytest.fixture
def result() -> dict[str, Any]:
    """Every rotation twice, the machine twice as slow in the second round; 16 adapters cost 25% more time."""
    seconds = {0: 1.0, 1: 2.0, 4: 2.0, 16: 2.5}
    rotations = {
        str(rotation): [
            {"wall_s": slow * wall_s, "latencies_ms": [wall_s * 1e3] * 4, "prompt_tokens": [300] * 4}
            for slow in (1, 2)
        ]
        for rotation, wall_s in seconds.items()
    }
    return {
        "passages": 20,
        "callers": 4,
        "copied": "legal",
        "loaded": 16,
        "source": "somewhere",
        "rotations": rotations,
    }


def test_the_settings_pass_the_servers_own_checks(tmp_path: Path) -> None:
    settings = load_settings(adapters.write_config(tmp_path, 3, Target()))
    check_models(settings)
    assert [adapter.name for adapter in settings.adapters.serve] == adapters.adapter_names("legal", 3)
    assert settings.engine.engine_kwargs["max_loras"] == 3


def test_throughput_is_held_against_one_adapter_round_by_round(result: dict[str, Any]) -> None:
    assert adapters.against_one(result, 16).median == pytest.approx(0.8)
    assert adapters.against_one(result, 0).median == pytest.approx(2.0)
    (claim,) = adapters.claims(result)
    assert claim.value == pytest.approx(0.8)


def test_tables_have_a_cell_for_every_column(result: dict[str, Any]) -> None:
    (table,) = adapters.tables(result)
    assert len(table.rows) == len(adapters.ROTATIONS)
    assert {len(row) for row in table.rows} == {len(table.columns)}


def test_plots_are_written(result: dict[str, Any], tmp_path: Path) -> None:
    for path in adapters.plot(result, tmp_path):
        assert path.read_bytes().startswith(b"\x89PNG")
