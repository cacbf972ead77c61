"""One round of work that is done again and again, whatever becomes of it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from dear_serving.errors import RequestError

logger = logging.getLogger(__name__)


async def attempt(work: Callable[[], Awaitable[None]]) -> bool:
    """Do it once; whether it went well. What went wrong is logged, and no more: the next round may go better.

    A loop that ended with an error would leave its adapters standing still for good.
    """
    try:
        await work()
    except RequestError as error:
        logger.warning("adapters stay as they are: %s", error.message)
    except Exception:
        logger.exception("adapters stay as they are")
    else:
        return True
    return False
