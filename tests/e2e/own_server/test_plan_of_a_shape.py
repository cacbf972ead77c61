"""``dear plan`` against the real engine: the shape of a 135M Llama, random weights, 5 to 40 passages."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.target import of_shape
from tests.e2e.conftest import Server
from tests.support.planned import compare

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(900)]

SLOTS = 8  # the default


def test_latency_and_capacity_are_predicted_within_twice(tmp_path: Path) -> None:
    target = of_shape("135m", tmp_path)
    with Server(target.config, tmp_path / "output.log") as server:
        found = compare(
            server.url,
            target.model,
            target.base,
            slots=SLOTS,
            rounds=1,
            lists_alone=2,
            full_passages=(5, 20),
            full_requests=16,
            folder=tmp_path,
        )
    assert all(0.5 < ratio < 2 for ratio in found.values()), found
