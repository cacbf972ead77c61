"""Admits or refuses requests by their predicted tokens, before they queue."""

from __future__ import annotations

from dear_serving.errors import Overloaded
from dear_serving.gateway.budgets import Budgets
from dear_serving.gateway.caller import Caller
from dear_serving.gateway.fair_queue import FairQueue

_LONGEST_RETRY_S = 60.0


class TokenAdmission:
    """Bounds the queued tokens of this gateway and each tenant's tokens per minute.

    Args:
        queue: the queue in which windows wait.
        budgets: each tenant's tokens per minute.
        max_queued_tokens: maximum tokens that wait or are in the engines.
    """

    def __init__(self, queue: FairQueue, budgets: Budgets, max_queued_tokens: int) -> None:
        self._queue = queue
        self._budgets = budgets
        self._max_queued_tokens = max_queued_tokens

    async def check(self, caller: Caller, least_tokens: int) -> None:
        """Refuse a request that ``admit`` would refuse later, before work is done for it; spends nothing.

        Args:
            least_tokens: the request needs these or more.

        Raises:
            RateLimited, PayloadTooLarge, Overloaded: see ``admit``.
        """
        self._check_queue(least_tokens)
        await self._budgets.check_tokens(caller.tenant, least_tokens)

    async def admit(self, caller: Caller, tokens: int) -> None:
        """Admit a request of ``tokens`` predicted tokens.

        Raises:
            RateLimited: the tenant's tokens per minute are spent.
            PayloadTooLarge: the request alone exceeds the tenant's tokens per minute.
            Overloaded: the gateway's queue is full.
        """
        self._check_queue(tokens)
        caller.report(await self._budgets.spend_tokens(caller.tenant, tokens))

    def _check_queue(self, tokens: int) -> None:
        waiting = self._queue.cost
        if waiting and waiting + tokens > self._max_queued_tokens:
            raise Overloaded(
                f"{waiting} tokens of work are ahead, the server takes on {self._max_queued_tokens}",
                retry_after_s=min(_LONGEST_RETRY_S, max(1.0, self._queue.seconds_for(waiting))),
            )
