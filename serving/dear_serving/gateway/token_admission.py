"""Takes on work by its predicted tokens, or refuses it before any of it waits."""

from __future__ import annotations

from dear_serving.errors import Overloaded
from dear_serving.gateway.budgets import Budgets
from dear_serving.gateway.caller import Caller
from dear_serving.gateway.fair_queue import FairQueue

_LONGEST_RETRY_S = 60.0


class TokenAdmission:
    """Bounds the tokens of work that wait in this gateway, and what each tenant may ask for a minute.

    Args:
        queue: where the work will wait.
        budgets: tokens a minute by tenant.
        max_queued_tokens: most tokens that wait or are in the engines.
    """

    def __init__(self, queue: FairQueue, budgets: Budgets, max_queued_tokens: int) -> None:
        self._queue = queue
        self._budgets = budgets
        self._max_queued_tokens = max_queued_tokens

    async def admit(self, caller: Caller, tokens: int) -> None:
        """Take on work of so many predicted tokens.

        Raises:
            RateLimited: the tenant's tokens a minute are spent.
            PayloadTooLarge: it is more than the tenant's tokens a minute by itself.
            Overloaded: as much work waits already as the gateway takes on.
        """
        waiting = self._queue.tokens
        if waiting and waiting + tokens > self._max_queued_tokens:
            raise Overloaded(
                f"{waiting} tokens of work are ahead, the server takes on {self._max_queued_tokens}",
                retry_after_s=min(_LONGEST_RETRY_S, max(1.0, self._queue.seconds_for(waiting))),
            )
        caller.report(await self._budgets.spend_tokens(caller.tenant, tokens))
