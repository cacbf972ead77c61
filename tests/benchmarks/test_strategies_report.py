"""Tables, targets and plots of the strategies benchmark, from figures made up here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import strategies
from benchmarks.strategies_report import claims, plot, tables


def figures(windows: int, rounds: int, *walls_ms: float) -> list[dict[str, float]]:
    return [
        {"wall_ms": wall_ms, "windows": windows, "rounds": rounds, "prompt_tokens": 4000, "ndcg": 80 + place}
        for place, wall_ms in enumerate(walls_ms)
    ]


def simulated() -> dict[str, Any]:
    arm = {"ndcg": 75.0, "ndcg_se": 0.2, "difference": -0.5, "difference_se": 0.4}
    arm |= {"to_idle": -0.7, "to_idle_se": 0.3}
    names = ("sliding", "joint, 3 looks", "blitz", "blitz, 3 looks", "deepen")
    arms = {name: dict(arm) for name in names}
    setting = {"sticking_sd": 0.5, "gumbel_scale": 0.4, "arms": arms}
    cost = {"calls": 9, "most_calls": 9, "rounds": 1, "most_rounds": 1, "shown": 180, "tokens": 12_000}
    adaptive = cost | {"calls": 7.25, "most_calls": 8, "tokens": 9_000}
    fit = {"ece": 0.1, "brier": 0.2, "bins": [{"pairs": 3, "confidence": 0.7, "right": 0.5}]}
    sure = {"pairs": 300, "right": 0.6, "before": fit, "after": fit, "certified_places": 2.5}
    sureness = {"topics": 43, "runs": 10, "arms": {"blitz": sure | {"certified_right": None}}}
    return {
        "sureness": sureness,
        "topics": 43,
        "runs": 10,
        "bm25_ndcg": 50.6,
        "shape": {"count": 100, "window": 20, "step": 10, "top_n": 10},
        "costs": {"sliding": cost, "joint, 3 looks": cost, "blitz": adaptive, "deepen": adaptive},
        "settings": [setting | {"share": share} for share in (0.25, 0.9)],
    }


@pytest.fixture
def result() -> dict[str, Any]:
    arms = {
        "sliding": figures(9, 9, 1000, 2000, 4000),
        "merge2": figures(6, 2, 400, 1000, 1200),
        "joint": figures(15, 1, 600, 1000, 1600),
        "tourrank": figures(13, 5, 800, 1500, 3000),
    }
    cell = {"passages": 100, "rounds": 3, "arms": arms}
    small = {"passages": 20, "rounds": 2, "arms": {"sliding": figures(1, 1, 10, 20)}}
    return {
        "model": "dear-tiny",
        "window": 20,
        "step": 10,
        "top_n": 10,
        "cells": [small, cell],
        "simulation": simulated(),
        "busy": {
            "busy_s": 2.0,
            "tokens_a_second": 20_000,
            "callers": [
                {
                    "callers": 8,
                    "by_load": {"lists_a_second": 1.5, "blitz": 0.9},
                    "today": {"lists_a_second": 1.0, "blitz": 0.0},
                }
            ],
        },
        "saturated": {
            "model": "dear-tiny",
            "callers": 8,
            "lists": 24,
            "today": [{"lists_a_second": 1.0, "blitz": 0.0, "ndcg": 80.0}] * 2,
            "by_load": [{"lists_a_second": rate, "blitz": 1.0, "ndcg": 79.0} for rate in (1.0, 1.4)],
        },
    }


def test_wall_times_are_compared_pair_by_pair(result: dict[str, Any]) -> None:
    engine, *_ = tables(result)
    rows = {row[1]: row for row in engine.rows if row[0] == "100"}
    assert rows["merge2"][6] == "0.40x (0.35 to 0.45)"
    assert rows["sliding"][6] == ""
    assert rows["joint"][2:4] == ("15", "1")
    assert rows["joint"][7] == "81.0 ± 0.6"


def test_targets_are_held_against_lists_of_a_hundred(result: dict[str, Any]) -> None:
    found = {claim.text: claim for claim in claims(result)}
    assert len(found) == 11
    assert found["rounds of joint, 100 passages"].met
    assert found["wall time of merge2 over sliding's, 100 passages, base model"].met
    slow = found["wall time of joint over sliding's, 100 passages, base model"]
    assert slow.value == pytest.approx(0.5)
    assert not slow.met
    for figure in result["cells"][1]["arms"]["joint"]:
        figure["rounds"] = 2
    assert not {claim.text: claim for claim in claims(result)}["rounds of joint, 100 passages"].met


def test_a_simulation_that_was_skipped_leaves_the_rest(result: dict[str, Any], tmp_path: Path) -> None:
    assert len(tables(result)) == len(plot(result, tmp_path)) == 4
    skipped = result | {"simulation": {"skipped": "no data"}}
    assert len(tables(skipped)) == len(plot(skipped, tmp_path)) == 2
    assert len(claims(skipped)) == len(claims(result)) - 5


def test_the_worst_share_of_the_noise_is_held_against_the_target(result: dict[str, Any]) -> None:
    found = {claim.text: claim for claim in claims(result)}
    assert found["prompt tokens of blitz over sliding's, simulated"].value == pytest.approx(0.75)
    quality = "nDCG@10 of blitz against sliding, simulated"
    assert found[quality].met
    assert not found["nDCG@10 of deepen against sliding, standard errors, simulated"].met
    result["simulation"]["settings"][1]["arms"]["blitz"]["difference"] = -1.2
    assert not {claim.text: claim for claim in claims(result)}[quality].met


def test_throughput_under_load_is_compared_block_by_block(result: dict[str, Any]) -> None:
    found = {claim.text: claim for claim in claims(result)}
    text = "throughput of auto by load over auto without, lists of 100"
    assert found[f"{text}, simulated"].value == pytest.approx(1.5)
    assert found[f"{text}, on the engine"].value == pytest.approx(1.2)
    *_, busy = tables(result)
    assert busy.rows[-1][4:] == ("1.20x (1.10 to 1.30)", "100%", "80.0 ± 0.0", "79.0 ± 0.0")


def test_means_say_the_most_of_one_list(result: dict[str, Any]) -> None:
    _, simulation, *_ = tables(result)
    assert [row[1] for row in simulation.rows] == ["9", "9", "7.2 (at most 8)", "7.2 (at most 8)"]


def test_every_column_has_a_cell_in_every_row(result: dict[str, Any]) -> None:
    for table in tables(result):
        assert {len(row) for row in table.rows} == {len(table.columns)}


def test_lists_are_rotated_so_that_arms_share_no_window() -> None:
    one = strategies.RankingList("q", ("a", "b", "c"), (0, 1, 2))
    assert strategies._rotated(one, 1) == strategies.RankingList("q", ("b", "c", "a"), (1, 2, 0))


@pytest.mark.parametrize("quick", [True, False])
def test_steps_count_the_cells_and_the_simulations_shares(quick: bool) -> None:
    cells = strategies.QUICK_CELLS if quick else strategies.CELLS
    assert strategies.steps(quick) == len(cells) + 4
