"""LoRA on vLLM's CPU engine: one matrix product an adapter instead of a copy of its weights a token.

vLLM 0.29 computes adapters on CPUs by gathering, for every token, the weights of its adapter, and reads
"no adapter" (-1) as the last slot: base-model requests that share a batch with adapters then answer with
an adapter's weights. Here tokens are grouped by adapter, and those without one are left alone. To go when
vLLM's own punica_cpu does the same; tests/engine/test_cpu_lora.py tells.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms.cpu import CpuPlatform
from vllm.v1.worker.cpu_worker import CPUWorker

Rows: TypeAlias = "slice | torch.Tensor"


class GroupedLora(PunicaWrapperCPU):  # type: ignore[misc]  # vllm is not typed here
    """vLLM's LoRA arithmetic for CPUs, tokens grouped by adapter."""

    _groups: list[tuple[int, Rows]]
    _sampler_groups: list[tuple[int, Rows]]

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
        for slot, rows in self._groups:
            b = lora_b_stacked[slot].flatten(0, -2)
            y[rows] += (x[rows].to(b.dtype) @ b.T).to(y.dtype)

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


def group(slots: torch.Tensor) -> list[tuple[int, Rows]]:
    """Rows by slot, in the slots' order; -1 (no adapter) is left out. Adjacent rows come as a slice."""
    groups: list[tuple[int, Rows]] = []
    for slot in slots.unique().tolist():
        if slot < 0:
            continue
        rows = (slots == slot).nonzero().flatten()
        first, last = int(rows[0]), int(rows[-1])
        groups.append((slot, slice(first, last + 1) if last - first + 1 == len(rows) else rows))
    return groups


def _add(
    y: torch.Tensor,
    x: torch.Tensor,
    lora_a: tuple[torch.Tensor, ...],
    lora_b: tuple[torch.Tensor, ...],
    scale: float,
    output_slices: tuple[int, ...],
    groups: list[tuple[int, Rows]],
) -> None:
    x, y = x.view(-1, x.shape[-1]), y.view(-1, y.shape[-1])
    for slot, rows in groups:
        part = x[rows]
        start = 0
        for a, b, size in zip(lora_a, lora_b, output_slices, strict=True):
            delta = part.to(a.dtype) @ a[slot].flatten(0, -2).T @ b[slot].flatten(0, -2).T
            y[rows, start : start + size] += (delta if scale == 1 else delta * scale).to(y.dtype)
            start += size
