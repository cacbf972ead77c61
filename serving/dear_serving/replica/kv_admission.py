"""How many resumable requests may be open at once."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class KvAdmission:
    """Holds back windows until the engine's KV cache and batch have room for all of their answer.

    vLLM frees the blocks of a running request when it needs them, but never those of one that waits for
    its next chunk: sessions that together want more blocks than there are would wait for each other for
    ever. Waiting windows come in by priority (lower first), then by arrival.

    Args:
        max_open: sessions at once, >= 1.
        blocks: KV cache blocks they share.
        block_size: tokens a block, >= 1.
    """

    def __init__(self, *, max_open: int, blocks: int, block_size: int) -> None:
        self._open_left = max_open
        self._blocks = self._blocks_left = blocks
        self._block_size = block_size
        self._waiting: list[tuple[int, int, int, asyncio.Future[None]]] = []
        self._arrivals = itertools.count()

    @asynccontextmanager
    async def hold(self, tokens: int, priority: int) -> AsyncIterator[None]:
        """Wait for room for ``tokens`` (prompt and answer) and keep it; at most all there is."""
        blocks = min(self._blocks, -(-tokens // self._block_size) + 1)
        admitted = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (priority, next(self._arrivals), blocks, admitted))
        self._admit()
        try:
            await admitted
            yield
        finally:
            if admitted.done() and not admitted.cancelled():
                self._open_left += 1
                self._blocks_left += blocks
            admitted.cancel()
            self._admit()

    def _admit(self) -> None:
        """Let in from the front while there is room; a large window at the front is not overtaken."""
        while self._waiting:
            _, _, blocks, admitted = self._waiting[0]
            if not admitted.cancelled():
                if not self._open_left or blocks > self._blocks_left:
                    return
                self._open_left -= 1
                self._blocks_left -= blocks
                admitted.set_result(None)
            heapq.heappop(self._waiting)
