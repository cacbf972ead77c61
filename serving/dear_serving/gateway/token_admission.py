"""Admits or refuses requests by their predicted tokens, before they queue."""

from __future__ import annotations

from dear_serving.errors import Overloaded, RateLimited
from dear_serving.gateway.budgets import Budgets
from dear_serving.gateway.caller import Caller
from dear_serving.gateway.fair_queue import FairQueue
from dear_serving.gateway.peers import Peers
from dear_serving.gateway.request_admission import share_of_a_tenant

_LONGEST_RETRY_S = 60.0


class TokenAdmission:
    """Bounds the queued tokens of all gateways, and each tenant's tokens per minute.

    No tenant may have all queued tokens, so that others always find room.

    Args:
        queue: the queue in which windows wait.
        budgets: each tenant's tokens per minute.
        peers: the other gateways.
        max_queued_tokens: maximum tokens that wait or are in the engines, in all gateways.
    """

    def __init__(self, queue: FairQueue, budgets: Budgets, peers: Peers, max_queued_tokens: int) -> None:
        self._queue = queue
        self._budgets = budgets
        self._peers = peers
        self._max_queued_tokens = max_queued_tokens

    async def check(self, caller: Caller, least_tokens: int) -> None:
        """Refuse a request that ``admit`` would refuse later, before work is done for it; spends nothing.

        Args:
            least_tokens: the request needs these or more.

        Raises:
            RateLimited, PayloadTooLarge, Overloaded: see ``admit``.
        """
        self._check_queue(caller.tenant.id, least_tokens)
        await self._budgets.check_tokens(caller.tenant, least_tokens)

    async def admit(self, caller: Caller, tokens: int) -> None:
        """Admit a request of ``tokens`` predicted tokens.

        Raises:
            RateLimited: the tenant's tokens per minute are spent, or its share of the queue is full.
            PayloadTooLarge: the request alone exceeds the tenant's tokens per minute.
            Overloaded: the queue is full.
        """
        self._check_queue(caller.tenant.id, tokens)
        caller.report(await self._budgets.spend_tokens(caller.tenant, tokens))

    def _check_queue(self, tenant: str, tokens: int) -> None:
        peers, most = self._peers, self._peers.part_of(self._max_queued_tokens)
        waiting = self._queue.cost + peers.others_cost()
        own = self._queue.cost_of(tenant) + peers.others_cost(tenant)
        if waiting and waiting + tokens > most:
            raise Overloaded(
                f"{waiting} tokens of work are ahead, the server takes on {most}",
                retry_after_s=self._wait_s(waiting),
            )
        if own and own + tokens > share_of_a_tenant(most, beside_others=waiting > own):
            raise RateLimited(
                f"the tenant has {own} tokens of work ahead, and leaves the rest to others",
                retry_after_s=self._wait_s(own),
            )

    def _wait_s(self, cost: int) -> float:
        return min(_LONGEST_RETRY_S, max(1.0, self._peers.seconds_for(cost)))
