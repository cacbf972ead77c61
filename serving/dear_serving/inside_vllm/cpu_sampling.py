"""A mend of vLLM's CPU engine: temperatures of requests that are sampled beside drafts.

vLLM 0.29 repeats each request's temperature, top_k and top_p once a draft with a kernel that on the CPU
writes whole numbers into a copy: the result is memory as it was found, and it divides the logits.
Where every request is greedy, nothing is divided, and all is well.
"""

from __future__ import annotations

import torch
from vllm.v1.sample import rejection_sampler


def mend() -> None:
    """Replace the function in this process; for workers on the CPU."""
    rejection_sampler.expand_batch_to_tokens = expand_batch_to_tokens


def expand_batch_to_tokens(
    values: torch.Tensor,
    ends: torch.Tensor,
    num_tokens: int,
    replace_from: float = 0,
    replace_to: float = 0,
) -> torch.Tensor:
    """Repeat each request's value for its drafts, as vLLM's function of this name.

    Args:
        values: a value a request, shape (requests,).
        ends: at which draft of the step each request's drafts end, rising, shape (requests,).
        num_tokens: the drafts of the step.
        replace_from: this value becomes ``replace_to``: greedy requests have temperature 0.
        replace_to: see there.

    Returns:
        Shape (num_tokens,).
    """
    counts = torch.diff(ends, prepend=ends.new_zeros(1))
    replaced = values.masked_fill(values == replace_from, replace_to)
    return replaced.repeat_interleave(counts, output_size=num_tokens)
