"""Made-up judged lists, as ``dear eval`` reads them."""

from __future__ import annotations

from pathlib import Path

from benchmarks.judged import write
from dear_tools.evaluation.rankgpt import load_rankgpt
from dear_tools.evaluation.trec import load_qrels


def test_dear_eval_reads_what_is_written(tmp_path: Path) -> None:
    write(tmp_path, 3, 12, seed=1)
    topics, warnings = load_rankgpt(tmp_path / "candidates.json")
    judged = load_qrels(tmp_path / "qrels.txt")
    assert [topic.id for topic in topics] == list(judged) == ["q1", "q2", "q3"]
    assert not warnings
    for topic in topics:
        assert set(topic.order) == set(judged[topic.id])
        assert len(topic.order) == 12
        assert len(set(judged[topic.id].values())) > 1
