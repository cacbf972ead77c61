"""Is a window decoded in one go decoded right?"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dear_serving.inside_vllm.answer_path import answer_path
from dear_serving.protocol import PermutationRequest
from dear_serving.replica.window_decoder import Decoder, ordinary_steps
from dear_serving.types import Order

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest
    from vllm.v1.engine.async_llm import AsyncLLM

# Two ways to compute one step of a bfloat16 model may differ by this much in a log probability.
NEAR_TIE = 0.25


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two ways to decode a window part.

    ``rank`` is the first that differs; ``gap`` how much more probable, in nats, the naive way's choice was
    there than the other's, by the naive way's own account.
    """

    rank: int
    gap: float

    @property
    def near_tie(self) -> bool:
        """Whether rounding explains it."""
        return self.gap <= NEAR_TIE


async def compare(
    decoder: Decoder, client: AsyncLLM, request: PermutationRequest, lora: LoRARequest | None
) -> Difference | None:
    """Rank a window with ``decoder`` and with one ordinary request a choice; None where they agree.

    Args:
        request: its identifiers are one token each.
    """
    async with contextlib.aclosing(decoder.decode(request, lora)) as windows:
        window = await anext(windows)
    path = answer_path(request.identifiers, request.separator, request.needed)
    next(path)
    steps: list[dict[int, float]] = []
    order: Order = ()
    async with contextlib.aclosing(ordinary_steps(client, request, lora)) as outputs:
        async for output in outputs:
            completion = output.outputs[0]
            steps.append({token: one.logprob for token, one in completion.logprobs[0].items()})
            try:
                path.send(completion.token_ids[0])
            except StopIteration as done:
                order = done.value
    for rank, (ours, naive) in enumerate(zip(window.order, order, strict=False)):
        if ours != naive:
            step = steps[rank]
            return Difference(rank, step[request.identifiers[naive][0]] - step[request.identifiers[ours][0]])
    return None


def small_window(request_id: str, adapter: str | None = None) -> PermutationRequest:
    """Eight identifiers behind a prompt of tokens that every vocabulary has."""
    return PermutationRequest(
        token_ids=list(range(32, 96)),
        identifiers=tuple((token,) for token in range(40, 48)),
        separator=(32, 33, 34),
        needed=8,
        adapter=adapter,
        request_id=request_id,
    )
