"""Schedulers that die of drafts, in the place of the product's."""

from __future__ import annotations

from typing import Any

from dear_serving.inside_vllm.drafted_scheduler import DraftedScheduler


class DyingScheduler(DraftedScheduler):
    """Named to vLLM as scheduler_cls."""

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        """As the product's, until there is a draft."""
        assert not scheduler_output.scheduled_spec_decode_tokens, "dies of a draft"
        return super().update_from_output(scheduler_output, model_runner_output)


class DyingOfAdapters(DraftedScheduler):
    """The same, with an adapter's draft."""

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        """As the product's, until an adapter's window has a draft."""
        drafted = [self.requests[name] for name in scheduler_output.scheduled_spec_decode_tokens]
        assert all(request.lora_request is None for request in drafted), "dies of an adapter's draft"
        return super().update_from_output(scheduler_output, model_runner_output)
