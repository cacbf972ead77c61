"""GET /admin/v1/replicas, and the answers that are shared for a moment."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import httpx
import pytest
from starlette.datastructures import Headers

from dear_serving.adapters.heartbeats import Heartbeats, ReplicaHeartbeat
from dear_serving.gateway.engine_replicas import Seen
from dear_serving.gateway.fleet import GatewayReport
from dear_serving.gateway.state import GatewayState
from dear_serving.http.recent import Recent, max_age_s
from tests.conftest import LEGAL, client_of

ADMIN = {"authorization": "Bearer root"}


async def replicas(gateway: GatewayState) -> dict[str, Any]:
    async with client_of(gateway) as http:
        reply = await http.get("/admin/v1/replicas", headers=ADMIN)
    assert reply.status_code == 200
    return {one["id"]: one for one in reply.json()["data"]}


async def test_the_only_gateway_answers_for_itself(with_tenants: GatewayState) -> None:
    gateway = dataclasses.replace(with_tenants, engines_seen=lambda: {"e1": Seen("serving", 2)})
    Heartbeats(gateway.database).report_replica(
        ReplicaHeartbeat("e1", 10**6, {LEGAL: None, "bad@1": "rank 64 is too high"})
    )
    own = gateway.catalog.gateway
    assert await replicas(gateway) == {
        own: {
            "object": "replica",
            "id": own,
            "role": "gateway",
            "state": "serving",
            "load": 0,
            "queued_tokens": 0,
            "current": True,
            "revisions": {},
            "seen_by": {},
        },
        "e1": {
            "object": "replica",
            "id": "e1",
            "role": "engine",
            "state": "serving",
            "load": 2,
            "queued_tokens": None,
            "current": True,
            "revisions": {LEGAL: "held", "bad@1": "rank 64 is too high"},
            "seen_by": {own: "serving"},
        },
    }


async def test_all_gateways_are_asked_and_this_one_need_not_be_known_to_serve(
    with_tenants: GatewayState,
) -> None:
    async def ask() -> tuple[list[GatewayReport], int]:
        return [GatewayReport("other", True, 7, 900, {"e1": Seen("silent")})], 2

    found = await replicas(dataclasses.replace(with_tenants, ask_reports=ask))
    assert {name: one["state"] for name, one in found.items()} == {
        "other": "ending",
        with_tenants.catalog.gateway: "serving",
        "e1": "silent",
    }
    assert (found["other"]["load"], found["other"]["queued_tokens"]) == (7, 900)


async def test_a_gateway_that_is_about_to_end_says_so(with_tenants: GatewayState) -> None:
    with_tenants.drain.begin(60)
    found = await replicas(with_tenants)
    assert found[with_tenants.catalog.gateway]["state"] == "ending"


@pytest.mark.parametrize("path", ["/admin/v1/replicas", "/metrics"])
async def test_who_takes_an_older_answer_gets_the_one_that_is_there(
    with_tenants: GatewayState, path: str
) -> None:
    asked = 0

    async def ask(*_: object) -> tuple[list[Any], int]:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        return [], 0

    gateway = dataclasses.replace(with_tenants, ask_reports=ask, ask_gateways=ask)
    async with client_of(gateway) as http:

        async def get(**headers: str) -> httpx.Response:
            reply = await http.get(path, headers=ADMIN | headers)
            assert reply.status_code == 200
            return reply

        older = {"cache-control": "max-age=10"}
        first, *rest = await asyncio.gather(*(get(**older) for _ in range(10)))
        assert asked == 1
        assert {reply.text for reply in rest} == {first.text}
        assert (await get(**older)).headers["age"] in {"0", "1", "2", "3"}
        assert asked == 1
        await get()
        assert asked == 2


@pytest.mark.parametrize(
    ("sent", "seconds"),
    [
        ("max-age=2", 2),
        ("no-transform, max-age=3", 3),
        ("max-age=99999", 10),
        ("max-age=-1", 0),
        ("max-age=", 0),
        ("max-age=99999999999999999999", 0),
        ("x-max-age=5", 0),
        ("no-cache", 0),
        ("", 0),
    ],
)
def test_how_old_an_answer_may_be(sent: str, seconds: int) -> None:
    assert max_age_s(Headers({"cache-control": sent})) == seconds


async def test_a_failure_is_shared_by_those_who_wait_and_not_kept() -> None:
    asked, now_s = 0, 100.0

    async def ask() -> int:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        if asked == 1:
            raise ValueError("no answer")
        return asked

    recent = Recent(ask, lambda: now_s)
    both = await asyncio.gather(recent.get(5), recent.get(5), return_exceptions=True)
    assert [str(one) for one in both] == ["no answer", "no answer"]
    assert await recent.get(5) == (2, 0.0)
    now_s += 4
    assert await recent.get(5) == (2, 4.0)
    now_s += 2
    assert await recent.get(5) == (3, 0.0)


async def test_a_caller_who_leaves_ends_the_answer_for_nobody() -> None:
    go_on = asyncio.Event()

    async def ask() -> str:
        await go_on.wait()
        return "found"

    recent = Recent(ask)
    first, second = (asyncio.create_task(recent.get(5)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    go_on.set()
    assert (await second)[0] == "found"
    assert first.cancelled()
