"""What a step of windows costs the scheduler over a vocabulary of 128,256 tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import host_cost
from benchmarks.context import Context

pytestmark = [pytest.mark.integration, pytest.mark.long]


def test_the_scheduler_takes_little_beside_a_forward_pass(tmp_path: Path) -> None:
    """Bounds are generous, since the machine may be busy."""
    result = host_cost.run(Context(True, 0, tmp_path, lambda text: None))
    (tmp_path / "host_cost.json").write_text(json.dumps(result))
    (table,) = host_cost.tables(result)
    assert {len(row) for row in table.rows} == {len(table.columns)}
    ms = {(cell["windows"], cell["drafts"]): cell["ms"]["all"] for cell in result["cells"]}
    assert ms[1, 11] < 10, ms
    assert ms[64, 11] < 120, ms
