"""The cascade benchmark: what its simulation counts and plays, and what its report holds it to."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import cascade, cascade_report, cascade_simulation
from benchmarks.workloads import DL19
from dear_serving.ranking.strategies.cost import cost


@pytest.fixture(scope="module")
def simulated() -> dict[str, Any]:
    """A short simulation."""
    if not DL19.is_file():
        pytest.skip("TREC DL 2019's lists are not at hand")
    told: list[str] = []
    found = cascade_simulation.simulate(SimpleNamespace(quick=True, seed=0, advance=told.append))
    assert len(told) == cascade.steps(True) - 1
    return found


def test_without_errors_every_arm_finds_the_best() -> None:
    generator = np.random.default_rng(0)
    worth = generator.permutation(100).astype(float)
    for name, make in cascade_simulation.ARMS.items():
        order = cascade_simulation._play(make(), worth, worth, 0.0, generator)
        assert sorted(order) == list(range(100)), name
        if name not in ("joint", "cascade, best 30"):  # which let ties stand
            assert worth[list(order[:10])].tolist() == sorted(worth, reverse=True)[:10], name


def test_tokens_are_those_of_windows_and_of_scores() -> None:
    lengths = cascade_simulation._Lengths(window=10.0, passage=2.0, first_around=3.0, first_passage=4.0)
    known = cost(cascade_simulation.ARMS["cascade, best 20"]())
    assert lengths.tokens(known) == 1 * 10 + 20 * 2 + 100 * (3 + 4)
    assert lengths.tokens(cost(cascade_simulation.ARMS["sliding"]())) == 9 * 10 + 180 * 2


@pytest.mark.integration
def test_the_estimate_has_the_measured_lengths_of_the_plain_prompt(simulated: dict[str, Any]) -> None:
    tokens = simulated["tokens"]["plain; yes-no of 64 tokens"]
    assert tokens["sliding"] / 9 == pytest.approx(1392, rel=0.01)
    for of_prompts in simulated["tokens"].values():
        assert of_prompts["cascade, best 10"] < of_prompts["cascade, best 20"] < of_prompts["joint"]


@pytest.mark.integration
def test_a_worse_first_stage_gives_a_worse_cascade(simulated: dict[str, Any]) -> None:
    for name in ("first stage alone", "cascade, best 10", "cascade, best 20"):
        values = [stage["arms"][name]["ndcg"] for stage in simulated["stages"].values()]
        assert values == sorted(values, reverse=True)


@pytest.mark.integration
def test_the_report_has_all_tables_claims_and_a_plot(simulated: dict[str, Any], tmp_path: Path) -> None:
    arms = {
        name: [
            {
                "strategy": "joint" if name == "auto" else name.partition(",")[0],
                "wall_ms": 10.0,
                "windows": 1,
                "rounds": 1,
                "scored": 0,
                "prompt_tokens": tokens,
                "tokens": tokens,
                "ndcg": 80.0 + run,
            }
            for run in range(2)
        ]
        for name, tokens in zip(cascade.ARMS, (200, 300, 50, 80, 90), strict=True)
    }
    result = {
        "model": "tiny",
        "passages": 100,
        "top_n": 10,
        "lists": 2,
        "arms": arms,
        "simulation": simulated,
    }
    assert [table.title for table in cascade.tables(result)] == [
        "On the engine",
        "Tokens",
        "Quality, simulated with noisy oracles",
    ]
    claims = cascade.claims(result)
    assert [claim.value for claim in claims[:2]] == [80 / 200, pytest.approx(80 / 300)]
    assert len(claims) == 2 + 2 * len(simulated["tokens"])
    (path,) = cascade.plot(result, tmp_path)
    assert path.is_file()
    alone = cascade.tables(result | {"simulation": {"skipped": "no lists"}})
    assert [table.title for table in alone] == ["On the engine"]


@pytest.mark.parametrize(
    ("difference", "se", "is_equal"),
    [(0.5, 0.1, True), (-0.9, 1.0, True), (-0.9, 0.1, False), (-1.1, 5.0, False)],
)
def test_equal_is_not_worse_than_chance_explains_nor_by_more_than_a_point(
    difference: float, se: float, is_equal: bool
) -> None:
    arms = {"cascade, best 10": {"against": {"joint": {"difference": difference, "se": se}}}}
    assert bool(cascade_report._equal(arms, "joint")) is is_equal
