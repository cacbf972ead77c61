"""The ramp of engines: its arrivals and its report."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from benchmarks.ramp import FALL_S, RISE_S, TOP_S, Ramp, Second, _pause_s


def test_arrivals_rise_stay_fall_and_end() -> None:
    pauses = [_pause_s(at_s, 10.0) for at_s in (0, RISE_S / 2, RISE_S, RISE_S + TOP_S, RISE_S + TOP_S + 20)]
    assert pauses == [2.0, 0.2, 0.1, 0.1, 0.2]
    assert _pause_s(RISE_S + TOP_S + FALL_S + 1, 10.0) is None


def test_a_run_is_written_with_its_plot(tmp_path: Path) -> None:
    seconds = [Second(float(at_s), at_s // 10 % 3, 3, 3) for at_s in range(60)]
    outcomes = Counter({"answered": 180, "AnswerTimeout": 1})
    run = Ramp(1.5, 8.0, seconds, outcomes, idle_s=5.0, wake_s=9.0, two_s=30.0, none_s=59.0)
    run.write(tmp_path)
    found = json.loads((tmp_path / "ramp.json").read_text())
    assert (run.lost, found["outcomes"]) == (1, {"answered": 180, "AnswerTimeout": 1})
    assert found["seconds"][0] == {"at_s": 0.0, "engines": 0, "arrived": 3, "answered": 3}
    assert (tmp_path / "ramp.png").stat().st_size > 10_000
