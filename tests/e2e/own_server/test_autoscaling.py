"""Engines that come and go with the work, on a server of the test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.ramp import ramp, server

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(1200)]


async def test_engines_follow_the_work_and_no_request_is_lost(tmp_path: Path) -> None:
    with server(tmp_path) as running:
        found = await ramp(running, peak=1.5)
    found.write(tmp_path)
    assert found.outcomes.keys() == {"answered"}
    assert found.two_s < found.none_s
    assert max(second.engines for second in found.seconds) == 2
    assert (tmp_path / "ramp.png").stat().st_size > 10_000
