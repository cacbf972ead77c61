"""When engines count as busy."""

from __future__ import annotations

from dear_serving.gateway.busyness import Busyness
from dear_serving.gateway.state import GatewayState


def test_busy_from_the_threshold_until_half_of_it() -> None:
    ahead = iter([0.0, 1.9, 2.0, 1.5, 1.0, 0.9, 1.5, 2.1])
    busy = Busyness(lambda: next(ahead), 2.0)
    assert [busy() for _ in range(8)] == [False, False, True, True, True, False, False, True]


def test_no_threshold_is_never_busy() -> None:
    assert not Busyness(lambda: 1e9, None)()


async def test_a_gateway_is_busy_while_its_engines_have_seconds_of_work_ahead(gateway: GatewayState) -> None:
    assert not gateway.rerank.is_busy()
    gateway.queue.rate = 1000.0  # tokens a second
    async with gateway.queue.turn("acme", 1.0, cost=900):
        assert not gateway.rerank.is_busy()
        async with gateway.queue.turn("acme", 1.0, cost=150):
            assert gateway.rerank.is_busy()
        assert gateway.rerank.is_busy()  # until it is half
    assert not gateway.rerank.is_busy()
