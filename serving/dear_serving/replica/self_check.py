"""Checks at start that windows are decoded as naive decoding would: one ordinary request for each choice."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dear_serving.inside_vllm.answer import Answer
from dear_serving.protocol import PermutationRequest
from dear_serving.replica.window_decoder import Decoder, Steps, ordinary_steps
from dear_serving.types import Order

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest
    from vllm.v1.engine.async_llm import AsyncLLM

# Rounding in a bfloat16 model: two computations of the same log probability may differ by this much.
NEAR_TIE = 0.25

_LENGTHS = (2, 3, 5, 8, 13, 21, 34, 55, 100)


@dataclass(frozen=True, slots=True)
class Difference:
    """The first difference between the decoder and naive decoding.

    ``rank`` is the first rank that differs. ``gap`` is the log probability, in nats, of the naive choice at
    this rank minus that of the decoder's choice; both are from the naive decoding.
    """

    rank: int
    gap: float

    @property
    def near_tie(self) -> bool:
        """Whether rounding explains the difference."""
        return self.gap <= NEAR_TIE


async def rank(decoder: Decoder, request: PermutationRequest, lora: LoRARequest | None) -> Order:
    """The decoder's order."""
    async with contextlib.aclosing(decoder.decode(request, lora)) as windows:
        return (await anext(windows)).order


async def difference(
    order: Order,
    client: AsyncLLM,
    request: PermutationRequest,
    lora: LoRARequest | None,
    naive: Steps = ordinary_steps,
) -> Difference | None:
    """Where ``order`` leaves naive decoding; None if it does not.

    Args:
        order: what the decoder made of the window.
        client: the engine.
        request: the window, with one-token identifiers.
        lora: its adapter, None for the base model.
        naive: a request for each choice. ``masked_steps`` if windows with drafts run beside it.
    """
    answer = Answer(request.identifiers, request.separator, request.needed)
    steps: list[dict[int, float]] = []
    async with contextlib.aclosing(naive(client, request, lora, answer)) as outputs:
        async for step in outputs:
            log_probs = step.output.outputs[0].logprobs[0]
            steps.append({token: entry.logprob for token, entry in log_probs.items()})
    for at, (ours, theirs) in enumerate(zip(order, answer.decided, strict=False)):
        if ours != theirs:
            (our_token,), (their_token,) = request.identifiers[ours], request.identifiers[theirs]
            return Difference(at, steps[at][their_token] - steps[at][our_token])
    return None


async def check_burst(
    decoder: Decoder,
    client: AsyncLLM,
    loras: Sequence[LoRARequest | None],
    max_model_len: int,
) -> str | None:
    """Rank windows of 2 to 100 passages with all adapters at once; None if every order is the naive one.

    Args:
        decoder: the decoder to check.
        client: its engine, with no other windows in it.
        loras: adapters to mix; None is the base model.
        max_model_len: longer windows are left out, tokens.

    Returns:
        What is wrong, in words, or None.
    """
    windows = [
        (small_window(f"self-check-{number}-{length}", length=length), lora)
        for number, lora in enumerate(loras)
        for length in _LENGTHS
    ]
    windows = [(request, lora) for request, lora in windows if request.tokens <= max_model_len]
    orders = await asyncio.gather(*(rank(decoder, request, lora) for request, lora in windows))
    # Only now: vLLM dies of the naive way's log probabilities beside drafts.
    found = await asyncio.gather(
        *(
            difference(order, client, request, lora)
            for order, (request, lora) in zip(orders, windows, strict=True)
        )
    )
    wrong = [one for one in found if one is not None and not one.near_tie]
    if not wrong:
        return None
    worst = max(wrong, key=lambda one: one.gap)
    return f"{len(wrong)} of {len(found)} windows differ, rank {worst.rank} by {worst.gap:.2f} nats"


def small_window(request_id: str, adapter: str | None = None, length: int = 8) -> PermutationRequest:
    """A window with at most 100 identifiers; its tokens exist in every vocabulary."""
    return PermutationRequest(
        token_ids=[32 + (number * 7 + length) % 96 for number in range(64)],
        identifiers=tuple((token,) for token in range(40, 40 + length)),
        separator=(32, 33, 34),
        needed=length,
        adapter=adapter,
        request_id=request_id,
    )
