"""LoRA on vLLM's CPU engine: one matrix product per adapter instead of a copy of its weights per token.

vLLM 0.29 on CPUs gathers the adapter's weights for every token. It also reads "no adapter" (-1) as the last
slot, so that base-model requests in a batch with adapters are answered with an adapter's weights. Here
tokens are grouped by adapter, and tokens without an adapter stay unchanged. Remove this file when vLLM's
punica_cpu does the same; tests/inside_vllm/test_cpu_lora.py shows when it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.model_executor.layers.linear import LinearBase
from vllm.platforms.cpu import CpuPlatform
from vllm.v1.worker.cpu_worker import CPUWorker

_LONG_RUN = 64
_FEW_RUNS = 2


@dataclass(frozen=True, slots=True)
class Pieces:
    """Rows of many adapters, cut into pieces of equal length for one batched product.

    Args:
        slots: adapter slot of each piece; a slice if they are consecutive, which avoids copying weights.
        rows: rows of all pieces, [pieces * length]; a short piece is padded with its last row.
        length: rows per piece.
        valid: indices into ``rows`` without the padding; None if there is no padding.
        targets: the rows without the padding, each once.
    """

    slots: slice | torch.Tensor
    rows: torch.Tensor
    length: int
    valid: torch.Tensor | None
    targets: torch.Tensor


@dataclass(frozen=True, slots=True)
class Groups:
    """Rows by adapter: consecutive rows of one adapter as (slot, rows), all others as pieces."""

    runs: tuple[tuple[int, slice], ...]
    pieces: Pieces | None


class GroupedLora(PunicaWrapperCPU):  # type: ignore[misc]  # vllm is not typed here
    """vLLM's LoRA computation for CPUs, with tokens grouped by adapter."""

    _groups: Groups

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """Called by vLLM before a forward pass with another mix of adapters than the one before."""
        super().update_metadata(*args, **kwargs)
        self._groups = group(self.token_lora_indices)

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
        """``y += scale * x @ A.T @ B.T`` in place, with the A and B of each token's adapter and slice of y.

        Args:
            y: outputs, [tokens, sum of output_slices or more].
            x: inputs, [tokens, inputs].
            lora_a_stacked: for each slice, A of all slots, [slots, 1, rank, inputs].
            lora_b_stacked: for each slice, B of all slots, [slots, 1, outputs of the slice, rank].
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
        """``y += x @ B.T`` in place, for an adapted embedding after the lookup of its A rows.

        Args:
            y: outputs, [tokens, outputs].
            x: looked-up rows, [tokens, rank].
            lora_b_stacked: B of all slots, [slots, 1, outputs, rank].
            add_inputs: always true in vLLM.
        """
        outputs = (lora_b_stacked.shape[-2],)
        _add(y, x, None, (lora_b_stacked,), 1.0, outputs, self._groups)

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
        """As ``add_lora_linear``, for an adapted output layer with one row per request."""
        outputs = (lora_b_stacked.shape[-2],)
        _add(y, x, (lora_a_stacked,), (lora_b_stacked,), scale, outputs, group(self.sampler_indices))


class GroupedLoraWorker(CPUWorker):  # type: ignore[misc]
    """vLLM's CPU worker with GroupedLora."""

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """As vLLM's, which creates the LoRA layers; selects GroupedLora first."""
        name = f"{GroupedLora.__module__}.{GroupedLora.__qualname__}"
        CpuPlatform.get_punica_wrapper = classmethod(lambda _: name)
        add_lora = self.model_runner.load_lora_model

        def load_lora_model(model: torch.nn.Module, *rest: Any) -> torch.nn.Module:
            stand_in_for_packed(model)
            layers: torch.nn.Module = add_lora(model, *rest)
            return layers

        self.model_runner.load_lora_model = load_lora_model
        super().load_model(*args, **kwargs)


def stand_in_for_packed(model: torch.nn.Module) -> None:
    """Give linear layers without a weight an empty one.

    On CPUs without AMX, oneDNN keeps int8 weights packed and vLLM sets the layer's own to None; then its LoRA
    layers cannot tell on which device they are.
    """
    for layer in model.modules():
        if isinstance(layer, LinearBase) and getattr(layer, "weight", layer) is None:
            layer.weight = torch.nn.Parameter(torch.empty(0, dtype=torch.int8), requires_grad=False)


def group(slots: torch.Tensor) -> Groups:
    """Group rows by slot; rows with -1 (no adapter) are left out.

    Args:
        slots: adapter slot of each row, [rows].

    Returns:
        Long runs of one adapter (from prompts) as slices, which copy nothing. Short runs (from choices) as
        pieces of the mean group length for one batched product: for short products the call costs more than
        the arithmetic, and with equal pieces a large group does not add padding to small ones.
    """
    values, counts = slots.unique_consecutive(return_counts=True)
    ends = counts.cumsum(0)
    spans = [
        (slot, slice(end - count, end))
        for slot, count, end in zip(values.tolist(), counts.tolist(), ends.tolist(), strict=True)
        if slot >= 0
    ]
    if len(spans) <= _FEW_RUNS:
        return Groups(tuple(spans), None)
    runs, short = [], slots.clone()
    for slot, rows in spans:
        if rows.stop - rows.start >= _LONG_RUN:
            runs.append((slot, rows))
            short[rows] = -1
    return Groups(tuple(runs), _cut(short))


def _cut(slots: torch.Tensor) -> Pieces | None:
    used = [slot for slot in slots.unique().tolist() if slot >= 0]
    if not used:
        return None
    groups = [(slots == slot).nonzero().flatten() for slot in used]
    total = sum(map(len, groups))
    length = -(-total // len(used))
    owners: list[int] = []
    padded: list[torch.Tensor] = []
    valid: list[torch.Tensor] = []
    for slot, rows in zip(used, groups, strict=True):
        for piece in rows.split(length):
            valid.append(torch.arange(len(piece)) + len(padded) * length)
            padded.append(torch.cat((piece, piece[-1:].expand(length - len(piece)))))
            owners.append(slot)
    neighbours = owners == list(range(owners[0], owners[0] + len(owners)))
    return Pieces(
        slots=slice(owners[0], owners[-1] + 1) if neighbours else torch.tensor(owners),
        rows=torch.cat(padded),
        length=length,
        valid=None if len(padded) * length == total else torch.cat(valid),
        targets=torch.cat(groups),
    )


def _add(
    y: torch.Tensor,
    x: torch.Tensor,
    lora_a: tuple[torch.Tensor, ...] | None,
    lora_b: tuple[torch.Tensor, ...],
    scale: float,
    output_slices: tuple[int, ...],
    groups: Groups,
) -> None:
    """As GroupedLora.add_lora_linear; if ``lora_a`` is None, x is already the product with A."""
    y = y.view(-1, y.shape[-1])
    x = x.view(-1, x.shape[-1]).to(lora_b[0].dtype)
    if y.dtype != lora_b[0].dtype:  # the adapters have another dtype than the model
        converted = y.to(lora_b[0].dtype)
        _add(converted, x, lora_a, lora_b, scale, output_slices, groups)
        y.copy_(converted)
        return
    ends = list(accumulate(output_slices))
    columns = [slice(end - size, end) for end, size in zip(ends, output_slices, strict=True)]
    for slot, rows in groups.runs:
        shrunk = _shrink(x[rows], lora_a, slot)
        for part, b, column in zip(shrunk, lora_b, columns, strict=True):
            y[rows, column].addmm_(part, b[slot].flatten(0, -2).T, alpha=scale)
    if groups.pieces is None:
        return
    pieces = groups.pieces
    shrunk = _shrink(x.index_select(0, pieces.rows).unflatten(0, (-1, pieces.length)), lora_a, pieces.slots)
    # Add into the sums instead of adding products later: rounded once, as in the runs above, so that a
    # token's result does not depend on its group.
    sums = y[:, : ends[-1]].index_select(0, pieces.rows).unflatten(0, (-1, pieces.length))
    for part, b, column in zip(shrunk, lora_b, columns, strict=True):
        sums[..., column].baddbmm_(part, b[pieces.slots].flatten(1, -2).mT, alpha=scale)
    rows_of_y = sums.flatten(0, 1)
    if pieces.valid is not None:
        rows_of_y = rows_of_y.index_select(0, pieces.valid)
    y[:, : ends[-1]].index_copy_(0, pieces.targets, rows_of_y)


def _shrink(
    x: torch.Tensor, lora_a: tuple[torch.Tensor, ...] | None, slots: int | slice | torch.Tensor
) -> Sequence[torch.Tensor]:
    """``x @ A.T`` for every output slice's A, in one product; x itself without A."""
    if lora_a is None:
        return (x,)
    weights = [a[slots].flatten(-3, -2) for a in lora_a]
    shrunk = x @ torch.cat(weights, -2).mT
    parts: Sequence[torch.Tensor] = torch.split(shrunk, [weight.shape[-2] for weight in weights], -1)
    return parts
