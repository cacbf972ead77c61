"""Lists of thousands on the real engine."""

from __future__ import annotations

import logging
import time

import pytest

from benchmarks.workloads import Lists
from dear_client import Client, Timeout
from tests.e2e.conftest import Server

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(1200)]
logger = logging.getLogger(__name__)


def test_ten_thousand_documents_are_one_request(server: Server) -> None:
    lists = Lists(5, passage_tokens=60)
    given = [lists.new(20) for _ in range(500)]
    documents = [text for one in given for text in one.passages]
    with Client(server.url, timeout=Timeout(answer_s=900, total_s=900)) as client:
        began_s = time.monotonic()
        ranking = client.rerank(given[350].query, documents, top_n=20)
        took_s = time.monotonic() - began_s
    details = ranking.details
    assert details is not None
    assert details.ranks is not None
    own = sum(one.index // 20 == 350 for one in ranking.results)
    logger.info(
        "10,000 documents: %.0f s, %d windows in %d rounds, %d prompt tokens, %s; %d of the best 20 are "
        "of the query",
        *(took_s, details.windows, details.rounds, ranking.usage.prompt_tokens, details.ranks, own),
    )
    assert details.strategy == "funnel"
    assert details.ranks.listwise + details.ranks.one_pass == 10_000
    assert ranking.warnings == ()
    assert len({one.index for one in ranking.results}) == 20
