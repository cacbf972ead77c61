"""How many engines the reported work needs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from dear_serving.autoscaling import BACKLOG, EngineScaling


@pytest.mark.parametrize(
    ("reported", "requests", "needed"),
    [
        ({}, 0, 0),
        (None, 0, 0),
        ({BACKLOG: {"r1": 0.0}}, 0.01, 0),  # somebody reads the metrics
        ({BACKLOG: {}}, 3, 1),  # a call that waits for the first engine
        ({BACKLOG: {"r1": 0.0, "r2": 0.0}}, 0, 0),
        ({BACKLOG: {"r1": 90.0, "r2": 100.0}}, 1, 1),
        ({BACKLOG: {"r1": 90.0, "r2": 250.0}}, 9, 2.5),  # both heard of the same work, one of less
        ({"another": {"r1": 900.0}}, 0, 0),
    ],
)
def test_engines_follow_the_predicted_tokens(
    reported: dict[str, dict[str, float]] | None, requests: float, needed: float
) -> None:
    context = SimpleNamespace(aggregated_metrics=reported, total_num_requests=requests)
    assert EngineScaling(100)(context) == (needed, {})
