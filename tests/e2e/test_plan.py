"""``dear plan`` against the real engine on this machine: the tiny model, 5 to 40 passages."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.e2e.conftest import Server
from tests.support.planned import compare

pytestmark = pytest.mark.e2e

BASE = ROOT / "configs" / "demo" / "base"
SLOTS = 4  # tests/e2e/conftest.py


def test_latency_and_capacity_are_predicted_within_twice(server: Server, tmp_path: Path) -> None:
    found = compare(server.url, "legal", BASE, SLOTS, rounds=7, folder=tmp_path)
    assert len(found) == 8
    assert all(0.5 < ratio < 2 for ratio in found.values()), found
