"""Requests and tokens a minute."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest

from dear_serving.errors import PayloadTooLarge, RateLimited
from dear_serving.gateway.budgets import Budgets
from dear_serving.process.background import free_port
from dear_serving.tenancy.tenants import Limits, Tenant


def tenant(name: str = "acme", requests: int | None = None, tokens: int | None = None) -> Tenant:
    return Tenant(name, limits=Limits(None, requests, tokens))


async def test_a_spent_budget_is_refused_with_when_to_come_back() -> None:
    budgets, acme = Budgets(), tenant(requests=3)
    left = [await budgets.spend_request(acme) for _ in range(3)]
    assert [one.remaining for one in left if one] == [2, 1, 0]
    with pytest.raises(RateLimited, match="the tenant's 3 requests a minute are spent") as raised:
        await budgets.spend_request(acme)
    assert 1 <= (raised.value.retry_after_s or 0) <= 60
    assert raised.value.headers["x-ratelimit-limit-requests"] == "3"
    assert raised.value.headers["x-ratelimit-remaining-requests"] == "0"


async def test_tenants_spend_budgets_of_their_own() -> None:
    budgets = Budgets()
    await budgets.spend_request(tenant(requests=1))
    await budgets.spend_request(tenant("other", requests=1))
    with pytest.raises(RateLimited):
        await budgets.spend_request(tenant(requests=1))


async def test_tokens_and_requests_are_two_budgets() -> None:
    budgets, acme = Budgets(), tenant(requests=10, tokens=1000)
    left = await budgets.spend_tokens(acme, 900)
    assert left is not None
    assert left.headers()["x-ratelimit-remaining-tokens"] == "100"
    with pytest.raises(RateLimited, match="1000 tokens a minute are spent"):
        await budgets.spend_tokens(acme, 101)
    assert await budgets.spend_tokens(acme, 100) is not None  # what was refused was not spent
    assert await budgets.spend_request(acme) is not None


async def test_a_request_over_the_whole_budget_is_not_told_to_wait() -> None:
    with pytest.raises(PayloadTooLarge, match="worth 1001 tokens, the tenant has 1000 a minute"):
        await Budgets().spend_tokens(tenant(tokens=1000), 1001)


async def test_a_gateway_that_counts_alone_has_its_part() -> None:
    budgets, acme = Budgets(part_of=lambda limit: limit // 2), tenant(requests=4, tokens=100)
    assert [(await budgets.spend_request(acme) is not None) for _ in range(2)] == [True] * 2
    with pytest.raises(RateLimited, match="2 requests a minute are spent"):
        await budgets.spend_request(acme)
    with pytest.raises(PayloadTooLarge, match="worth 51 tokens, the tenant has 50 a minute"):
        await budgets.spend_tokens(acme, 51)


async def test_no_limit_binds_nothing() -> None:
    budgets = Budgets()
    assert await budgets.spend_request(tenant()) is None
    assert await budgets.spend_tokens(tenant(), 10**12) is None


# Several gateways, one Redis.


@pytest.fixture
async def gateways(redis: tuple[str, object]) -> AsyncIterator[tuple[Budgets, Budgets]]:
    """Two gateways that count together."""
    both = Budgets(redis[0]), Budgets(redis[0])
    yield both
    for one in both:
        await one.close()


@pytest.mark.integration
async def test_gateways_with_a_redis_count_together(gateways: tuple[Budgets, Budgets]) -> None:
    one, other = gateways
    acme = tenant("together", requests=3, tokens=100)
    for gateway in (one, other, one):
        assert await gateway.spend_request(acme) is not None
    with pytest.raises(RateLimited):
        await other.spend_request(acme)
    left = await one.spend_tokens(acme, 60)
    assert left is not None
    assert left.remaining == 40
    with pytest.raises(RateLimited):
        await other.spend_tokens(acme, 41)


async def test_a_redis_that_does_not_answer_leaves_each_to_itself(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nothing listens on the port: the limit still binds, and nobody waits for long."""
    budgets, acme = Budgets(f"redis://127.0.0.1:{free_port()}/0"), tenant(requests=2)
    started_s = time.monotonic()
    for _ in range(2):
        assert await budgets.spend_request(acme) is not None
    with pytest.raises(RateLimited):
        await budgets.spend_request(acme)
    assert time.monotonic() - started_s < 2
    assert "this gateway counts limits alone" in caplog.text
    await budgets.close()
