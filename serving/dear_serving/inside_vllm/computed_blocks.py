"""vLLM's scheduler, with only those blocks in the prefix cache that the model has computed.

vLLM 0.29 puts a request's blocks into the prefix cache when it schedules the request. With priorities, it may
preempt it in the same step, for a request after it that is more important: the blocks are never computed but
stay in the cache, and whoever has the same prefix reads what was there before. Remove this file when
https://github.com/vllm-project/vllm/pull/43569 or its like is in.
"""

from __future__ import annotations

from typing import Any

from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request


class ComputedBlocks(Scheduler):  # type: ignore[misc]  # vllm is not typed here
    """Extends ``_preempt_request``, a private method."""

    def _preempt_request(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """As vLLM's; blocks beyond the computed tokens leave the prefix cache first."""
        computed = request.num_computed_tokens  # without the tokens of the step that is being scheduled
        ids = self.kv_cache_manager.get_block_ids(request.request_id)
        for group, blocks in zip(self.kv_cache_config.kv_cache_groups, ids, strict=True):
            self.kv_cache_manager.evict_blocks(set(blocks[computed // group.kv_cache_spec.block_size :]))
        super()._preempt_request(request, *args, **kwargs)
