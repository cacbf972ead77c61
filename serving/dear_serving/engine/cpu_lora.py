"""LoRA on vLLM's CPU engine: one matrix product an adapter instead of a copy of its weights a token.

vLLM 0.29 computes adapters on CPUs by gathering, for every token, the weights of its adapter, and reads
"no adapter" (-1) as the last slot: base-model requests that share a batch with adapters then answer with
an adapter's weights. Here tokens are grouped by adapter, and those without one are left alone. To go when
vLLM's own punica_cpu does the same; tests/engine/test_cpu_lora.py tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms.cpu import CpuPlatform
from vllm.v1.worker.cpu_worker import CPUWorker

Rows: TypeAlias = "slice | torch.Tensor"

_MANY_GROUPS = 3
_MOST_PADDING = 3


@dataclass(frozen=True, slots=True)
class Padded:
    """Groups padded to one length.

    Args:
        slots: adapter slot of each group, [groups].
        rows: tokens of each group, its last one repeated, [groups, longest].
        targets: the tokens without the repeated ones, [tokens with an adapter].
        valid: where those stand in the flattened ``rows``, [tokens with an adapter].
    """

    slots: torch.Tensor
    rows: torch.Tensor
    targets: torch.Tensor
    valid: torch.Tensor


@dataclass(frozen=True, slots=True)
class Groups:
    """Tokens by adapter: (slot, rows) pairs, or all of them padded."""

    alone: list[tuple[int, Rows]]
    padded: Padded | None


class GroupedLora(PunicaWrapperCPU):  # type: ignore[misc]  # vllm is not typed here
    """vLLM's LoRA arithmetic for CPUs, tokens grouped by adapter."""

    _groups: Groups
    _sampler_groups: Groups

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """Called by vLLM before a forward pass whose mix of adapters differs from the last one's."""
        super().update_metadata(*args, **kwargs)
        self._groups = group(self.token_lora_indices)
        self._sampler_groups = group(self.sampler_indices)

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        *,
        buffer: tuple[torch.Tensor, ...] | None = None,
        **kwargs: Any,
    ) -> None:
        """``y += scale * x @ A.T @ B.T`` in place, each token with its adapter, each slice of y with its own.

        Args:
            y: outputs, [tokens, sum of output_slices or more].
            x: inputs, [tokens, inputs].
            lora_a_stacked: for each slice A of all slots, [slots, 1, rank, inputs].
            lora_b_stacked: for each slice B of all slots, [slots, 1, outputs of the slice, rank].
            scale: factor of the product.
            output_slices: columns of y that each slice fills.
            buffer: not used.
        """
        _add(y, x, lora_a_stacked, lora_b_stacked, scale, output_slices, self._groups)

    def add_lora_embedding(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        add_inputs: bool = True,
        **kwargs: Any,
    ) -> None:
        """``y += x @ B.T`` in place, for an adapted embedding whose A rows are looked up already.

        Args:
            y: outputs, [tokens, outputs].
            x: looked-up rows, [tokens, rank].
            lora_b_stacked: B of all slots, [slots, 1, outputs, rank].
            add_inputs: always true in vLLM.
        """
        x, y = x.view(-1, x.shape[-1]), y.view(-1, y.shape[-1])
        groups = self._groups
        for slot, rows in groups.alone:
            b = lora_b_stacked[slot].flatten(0, -2)
            y[rows] += (x[rows].to(b.dtype) @ b.T).to(y.dtype)
        if groups.padded is not None:
            b = lora_b_stacked[groups.padded.slots].flatten(1, -2)
            delta = (x[groups.padded.rows].to(b.dtype) @ b.mT).flatten(0, 1)[groups.padded.valid]
            y.index_add_(0, groups.padded.targets, delta.to(y.dtype))

    def add_lora_logits(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        scale: float,
        *,
        buffer: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> None:
        """As ``add_lora_linear``, a row a request, for an adapted output layer."""
        outputs = (lora_b_stacked.shape[-2],)
        _add(y, x, (lora_a_stacked,), (lora_b_stacked,), scale, outputs, self._sampler_groups)


class GroupedLoraWorker(CPUWorker):  # type: ignore[misc]
    """vLLM's CPU worker, with GroupedLora in place of the stock arithmetic."""

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """As vLLM's; this is where the LoRA layers are made."""
        name = f"{GroupedLora.__module__}.{GroupedLora.__qualname__}"
        CpuPlatform.get_punica_wrapper = classmethod(lambda _: name)
        super().load_model(*args, **kwargs)


def group(slots: torch.Tensor) -> Groups:
    """Rows by slot, -1 (no adapter) left out.

    Few groups, or very unequal ones, are products of their own; many small ones are padded to one length
    and done as a batch, since with a short product the call costs more than the arithmetic.
    """
    used = [slot for slot in slots.unique().tolist() if slot >= 0]
    rows = [(slots == slot).nonzero().flatten() for slot in used]
    longest = max(map(len, rows), default=0)
    if len(used) < _MANY_GROUPS or longest * len(used) > _MOST_PADDING * sum(map(len, rows)):
        return Groups([(slot, _as_slice(one)) for slot, one in zip(used, rows, strict=True)], None)
    padded = torch.stack([torch.cat((one, one[-1:].expand(longest - len(one)))) for one in rows])
    valid = torch.cat([torch.arange(len(one)) + number * longest for number, one in enumerate(rows)])
    return Groups([], Padded(torch.tensor(used), padded, torch.cat(rows), valid))


def _as_slice(rows: torch.Tensor) -> Rows:
    """Adjacent rows as a slice, which copies nothing."""
    first, last = int(rows[0]), int(rows[-1])
    return slice(first, last + 1) if last - first + 1 == len(rows) else rows


def _add(
    y: torch.Tensor,
    x: torch.Tensor,
    lora_a: tuple[torch.Tensor, ...],
    lora_b: tuple[torch.Tensor, ...],
    scale: float,
    output_slices: tuple[int, ...],
    groups: Groups,
) -> None:
    x, y = x.view(-1, x.shape[-1]), y.view(-1, y.shape[-1])
    for slot, rows in groups.alone:
        part, start = x[rows], 0
        for a, b, size in zip(lora_a, lora_b, output_slices, strict=True):
            delta = part.to(a.dtype) @ a[slot].flatten(0, -2).T @ b[slot].flatten(0, -2).T
            y[rows, start : start + size] += (delta if scale == 1 else delta * scale).to(y.dtype)
            start += size
    if groups.padded is not None:
        padded, start = groups.padded, 0
        parts = x[padded.rows]
        for a, b, size in zip(lora_a, lora_b, output_slices, strict=True):
            shrunk = parts.to(a.dtype) @ a[padded.slots].flatten(1, -2).mT
            delta = (shrunk @ b[padded.slots].flatten(1, -2).mT).flatten(0, 1)[padded.valid]
            delta = (delta if scale == 1 else delta * scale).to(y.dtype)
            y[:, start : start + size].index_add_(0, padded.targets, delta)
            start += size
