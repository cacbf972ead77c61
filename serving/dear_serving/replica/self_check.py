"""Checks that decoding a window as one resumable request gives the right order."""

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

# Rounding in a bfloat16 model: two computations of the same log probability may differ by this much.
NEAR_TIE = 0.25


@dataclass(frozen=True, slots=True)
class Difference:
    """The first difference between the decoder and naive decoding (one ordinary request per choice).

    ``rank`` is the first rank that differs. ``gap`` is the log probability, in nats, of the naive choice at
    this rank minus that of the decoder's choice; both are from the naive decoding.
    """

    rank: int
    gap: float

    @property
    def near_tie(self) -> bool:
        """Whether rounding explains the difference."""
        return self.gap <= NEAR_TIE


async def compare(
    decoder: Decoder, client: AsyncLLM, request: PermutationRequest, lora: LoRARequest | None
) -> Difference | None:
    """Rank a window with ``decoder`` and with one ordinary request per choice; None if they agree.

    Args:
        decoder: the decoder to check.
        client: the engine.
        request: a window with one-token identifiers.
        lora: its adapter, None for the base model.
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
            steps.append({token: entry.logprob for token, entry in completion.logprobs[0].items()})
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
    """A window with eight identifiers; its tokens exist in every vocabulary."""
    return PermutationRequest(
        token_ids=list(range(32, 96)),
        identifiers=tuple((token,) for token in range(40, 48)),
        separator=(32, 33, 34),
        needed=8,
        adapter=adapter,
        request_id=request_id,
    )
