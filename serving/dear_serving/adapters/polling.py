"""Runs one round of a loop that must survive errors."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from dear_serving.errors import RequestError

logger = logging.getLogger(__name__)


async def attempt(work: Callable[[], Awaitable[None]]) -> bool:
    """Run ``work`` once; returns whether it succeeded.

    Errors are only logged, because the next round may succeed; if the loop ended, adapters would never change
    again.
    """
    try:
        await work()
    except RequestError as error:
        logger.warning("a regular round failed and is tried again: %s", error.message)
    except Exception:
        logger.exception("a regular round failed and is tried again")
    else:
        return True
    return False
