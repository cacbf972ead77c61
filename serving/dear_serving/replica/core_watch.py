"""Ends a replica whose vLLM core is dead or hangs, so that another one takes its place at once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

logger = logging.getLogger(__name__)

_LOOK_S = 0.1
_ASK_EVERY_S = 5.0


async def leave_with_core(core: Callable[[], AsyncLLM], stall_s: float) -> None:
    """Return never: end this process when the core is lost; see ``core_is_lost``."""
    reason = await core_is_lost(core, stall_s)
    logger.critical("%s; this replica ends, and Serve starts another", reason)
    end_process()


async def core_is_lost(core: Callable[[], AsyncLLM], stall_s: float) -> str:
    """Wait until the core is dead, or leaves a question unanswered for ``stall_s`` seconds; returns which.

    The core answers questions between two steps, whatever it works on. So a core that does not answer will
    not rank either, while one with much to do still answers.
    """
    asked_s = time.monotonic()
    question: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    question.set_result(None)
    try:
        while True:
            if core().errored:
                return "vLLM's core died"
            now_s = time.monotonic()
            if not question.done():
                if now_s - asked_s > stall_s:
                    return f"vLLM's core does nothing (engine.stall_timeout_s: {stall_s:g})"
            elif now_s - asked_s > _ASK_EVERY_S:
                question.exception()  # a dead core shows as errored
                asked_s, question = now_s, asyncio.ensure_future(core().is_sleeping())
            await asyncio.sleep(_LOOK_S)
    finally:
        question.cancel()


def end_process() -> None:
    """End this process and those that it started, which would keep the GPU, without waiting for anything."""
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    os._exit(1)
