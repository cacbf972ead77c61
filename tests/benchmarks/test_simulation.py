"""The noisy oracle, on topics made up here."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks import busy, simulation, strategies_report, sureness
from benchmarks.context import Context, Skipped
from benchmarks.simulation import GUMBEL_VARIANCE, SHARES, VARIANCE, Noise, Topic, read_topics


def write_lists(folder: Path, grades: dict[str, int], topics: tuple[str, ...] = ("7",)) -> Path:
    """Candidates of 100 passages a topic, docids d0 to d99, and judgements of topics below 8."""
    hits = [{"docid": f"d{place}", "content": "text"} for place in range(100)]
    lists = [{"query": "q", "hits": [hit | {"qid": topic} for hit in hits]} for topic in topics]
    path = folder / "bm25_top100.json"
    path.write_text(json.dumps(lists))
    judged = [topic for topic in topics if topic < "8"]
    lines = [f"{topic} Q0 {passage} {grade}" for topic in judged for passage, grade in grades.items()]
    (folder / "qrels.txt").write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("share", [0.0, *SHARES, 1.0])
def test_every_share_of_new_noise_has_the_same_variance(share: float) -> None:
    noise = Noise.of(share)
    new = noise.gumbel_scale**2 * GUMBEL_VARIANCE
    assert noise.sticking_sd**2 + new == pytest.approx(VARIANCE)
    assert new == pytest.approx(share * VARIANCE)


def test_the_main_share_is_the_noise_it_is_named_for() -> None:
    noise = Noise.of(simulation.MAIN_SHARE)
    assert noise.sticking_sd == pytest.approx(0.65)
    assert noise.gumbel_scale == pytest.approx(0.6)


def test_ndcg_divides_by_the_best_that_all_judged_passages_allow(tmp_path: Path) -> None:
    grades = {"d1": 3, "d0": 1, "unretrieved": 2}
    (topic,) = read_topics(write_lists(tmp_path, grades))
    best = 3 + 2 / math.log2(3) + 1 / 2
    assert topic.ndcg(tuple(range(100))) == pytest.approx(100 * (1 + 3 / math.log2(3)) / best)
    assert topic.ndcg((1, 0, *range(2, 100))) == pytest.approx(100 * (3 + 1 / math.log2(3)) / best)


def test_topics_nobody_judged_are_left_out(tmp_path: Path) -> None:
    assert len(read_topics(write_lists(tmp_path, {"d0": 1}, ("7", "8")))) == 1


def test_lists_that_are_not_there_skip_the_simulation(tmp_path: Path) -> None:
    path = write_lists(tmp_path, {"d0": 1})
    (tmp_path / "qrels.txt").unlink()
    with pytest.raises(Skipped, match=r"qrels\.txt is not at hand"):
        read_topics(path)


def test_arms_are_compared_topic_by_topic(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    grades = {f"d{place}": 3 if place % 9 == 0 else 1 for place in range(99)}
    monkeypatch.setattr(simulation, "DL19", write_lists(tmp_path, grades, ("5", "6", "7")))
    said: list[str] = []
    found = simulation.simulate(Context(True, 0, tmp_path, said.append))
    assert len(said) == len(found["settings"]) == len(SHARES)
    assert found["topics"] == 3
    for setting in found["settings"]:
        arms = setting["arms"]
        assert arms[simulation.REFERENCE]["difference"] == 0
        for arm in arms.values():
            assert 0 < arm["ndcg"] <= 100
            expected = arm["ndcg"] - arms[simulation.REFERENCE]["ndcg"]
            assert arm["difference"] == pytest.approx(expected)
    assert found["costs"]["joint, 3 looks"]["calls"] == 15
    assert found["costs"]["sliding"]["shown"] == found["costs"]["sliding"]["calls"] * 20 == 180
    blitz = found["costs"]["blitz"]
    assert 7 <= blitz["calls"] <= blitz["most_calls"] <= 10
    assert blitz["tokens"] < 0.85 * found["costs"]["sliding"]["tokens"]
    assert len(strategies_report._simulated(found).rows) == len(simulation.ARMS)
    again = simulation.simulate(Context(True, 0, tmp_path, said.append))
    assert again == found


def test_an_oracle_without_noise_finds_the_best(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    grades = {f"d{place}": 3 for place in range(5, 100, 19)}
    monkeypatch.setattr(simulation, "DL19", write_lists(tmp_path, grades, ("6", "7")))
    monkeypatch.setattr(simulation, "VARIANCE", 1e-6)
    found = simulation.simulate(Context(True, 0, tmp_path, lambda _: None))
    for setting in found["settings"]:
        for name, arm in setting["arms"].items():
            # A share of wins also depends on whom a passage met.
            by_wins = name in ("joint, 2 looks", "joint, 3 looks")
            if name == "deepen":
                assert arm["ndcg"] > 80  # it stops where each window brings a single one
                continue
            assert arm["ndcg"] == pytest.approx(100, abs=1 if by_wins else 1e-6)


def test_topic_holds_relevance_in_first_stage_order() -> None:
    topic = Topic(np.array([0.0, 3.0] + [0.0] * 98), 3.0)
    assert topic.ndcg((1, 0, *range(2, 100))) == pytest.approx(100)


def test_load_saves_tokens_and_idle_engines_do_not() -> None:
    found = {one["callers"]: one for one in busy.simulate()["callers"]}
    assert found[1]["by_load"] == found[1]["today"]
    assert found[2]["by_load"]["blitz"] < 0.05
    assert found[16]["by_load"]["blitz"] > 0.9
    assert found[16]["by_load"]["lists_a_second"] > 1.3 * found[16]["today"]["lists_a_second"]


def test_confidence_is_mapped_by_topics_it_was_not_fitted_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    grades = {f"d{place}": (place * 7) % 4 for place in range(99)}
    path = write_lists(tmp_path, grades, tuple("01234567"))
    monkeypatch.setattr(sureness, "DL19", path)
    found = sureness.simulate(0, quick=True)
    assert found["topics"] == 8
    assert set(found["arms"]) == set(sureness.ARMS)
    for arm in found["arms"].values():
        assert 0.3 < arm["right"] < 1
        assert 2 <= arm["queries"] <= 16  # of some, no neighbours have different grades
        assert 0 <= arm["certified_places"] <= 10
