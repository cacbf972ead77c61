"""The client library against the real server."""

from __future__ import annotations

import asyncio

import pytest

from dear_client import AsyncClient, Client, Ranking, RerankRequest, UnknownModel
from tests.client.shells import environment
from tests.e2e.conftest import ADMIN_KEY, BODY, Admin, Server

pytestmark = pytest.mark.e2e

QUERY = str(BODY["query"])
TEXTS = [str(text) for text in BODY["documents"]]


@pytest.fixture
def client(server: Server, monkeypatch: pytest.MonkeyPatch) -> Client:
    """A client of the server that finds all it needs in the environment."""
    with environment(monkeypatch, DEAR_BASE_URL=server.url, DEAR_ADMIN_KEY=ADMIN_KEY):
        return Client()


def test_an_adapter_ranks_objects_and_they_come_back(client: Client) -> None:
    hits = [{"text": text, "row": row, "made": object()} for row, text in enumerate(TEXTS)]
    with client:
        client.ready()
        by_adapter = {name: client.rerank(QUERY, hits, model=name, top_n=3) for name in ("legal", "medical")}
    for name, ranking in by_adapter.items():
        assert all(result.document is hits[result.index] for result in ranking.results)
        assert ranking.details is not None
        assert (ranking.details.revision or "").startswith(f"{name}@")
        assert ranking.id == ranking.request_id
    assert by_adapter["legal"].order != by_adapter["medical"].order


def test_a_stream_gives_the_order_that_a_call_gives(client: Client) -> None:
    with client, client.stream(QUERY, TEXTS, model="legal") as stream:
        told = [rank.document for rank in stream]
        assert told == list(stream.ranking.documents)
        assert stream.ranking.order == client.rerank(QUERY, TEXTS, model="legal").order


def test_sixty_lists_at_once_come_back_in_order(client: Client) -> None:
    requests: list[RerankRequest] = [
        {"query": QUERY, "documents": [f"{number} {text}" for text in TEXTS], "model": "legal"}
        for number in range(60)
    ]
    requests[30]["model"] = "nobody"
    done: list[int] = []
    with client:
        ranked = client.rerank_many(requests, concurrency=16, progress=lambda told: done.append(told.done))
    assert done == list(range(1, 61))
    assert isinstance(ranked.pop(30), UnknownModel)
    del requests[30]
    for request, ranking in zip(requests, ranked, strict=True):
        assert isinstance(ranking, Ranking), ranking
        assert sorted(map(str, ranking.documents)) == sorted(map(str, request["documents"]))


def test_the_asyncio_client_does_the_same(server: Server) -> None:
    async def both() -> tuple[list[int], Ranking, Ranking]:
        async with AsyncClient(server.url) as client:
            one, other = await asyncio.gather(
                client.rerank(QUERY, TEXTS, model="legal"), client.rerank(QUERY, TEXTS, model="medical")
            )
            async with client.stream(QUERY, TEXTS, model="legal") as stream:
                return [rank.index async for rank in stream], one, other

    told, one, other = asyncio.run(both())
    assert tuple(told) == one.order != other.order


def test_models_and_administration(client: Client, admin: Admin) -> None:
    with client:
        assert {"legal", "medical"} < {model.id for model in client.models()}
        client.admin.create_tenant("of-the-client", requests_per_minute=1000)
        key = client.admin.create_key("of-the-client").key
        assert [one.action for one in client.admin.audit(1)]
        adapter = client.admin.adapter("legal")
        assert adapter.active in {revision.id for revision in adapter.revisions}
        with Client(client.base_url, key) as theirs:
            assert len(theirs.rerank(QUERY, TEXTS).order) == len(TEXTS)
        client.admin.delete_tenant("of-the-client")
    assert admin.http.get("/tenants/of-the-client").status_code == 404
