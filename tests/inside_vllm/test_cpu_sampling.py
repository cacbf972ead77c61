"""The mend of vLLM's CPU sampling beside drafts."""

from __future__ import annotations

import pytest
import torch

from dear_serving.inside_vllm.cpu_sampling import expand_batch_to_tokens

pytestmark = pytest.mark.integration


def test_each_requests_value_is_repeated_for_its_drafts() -> None:
    ends = torch.tensor([2, 2, 5], dtype=torch.int32)  # the second request has no draft
    temperatures = torch.tensor([0.0, 0.7, 0.9])
    expanded = expand_batch_to_tokens(temperatures, ends, 5, replace_from=0, replace_to=1)
    assert expanded.tolist() == pytest.approx([1.0, 1.0, 0.9, 0.9, 0.9])
    assert expand_batch_to_tokens(torch.tensor([5, 7, 9]), ends, 5).tolist() == [5, 5, 9, 9, 9]


def test_vllm_still_has_the_function_that_is_replaced() -> None:
    from vllm.v1.sample import rejection_sampler

    assert callable(rejection_sampler.expand_batch_to_tokens)
