"""LoRA on the CPU: each token with its own adapter, and without one where it has none."""

from __future__ import annotations

import pytest
import torch
from vllm.lora.layers.utils import _get_lora_device
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.model_executor.layers.linear import LinearBase

from dear_serving.inside_vllm.cpu_lora import GroupedLora, Groups, group, stand_in_for_packed

pytestmark = pytest.mark.integration

SLOTS, RANK, INPUTS, SLICES = 3, 4, 16, (8, 24)
MIXED = [0, 0, 2, -1, *[1] * 70, *[0] * 64, *[2, -1, 1] * 8]  # prompts and choices, as in a busy batch


def test_a_layer_whose_weight_is_packed_away_takes_an_adapter() -> None:
    packed, plain = (LinearBase.__new__(LinearBase) for _ in range(2))
    for layer in (packed, plain):
        torch.nn.Module.__init__(layer)
        layer.weight = torch.nn.Parameter(torch.ones(2, 2))
    packed.weight = None
    with pytest.raises(AttributeError):
        _get_lora_device(packed)
    stand_in_for_packed(torch.nn.ModuleList([packed, plain, torch.nn.LayerNorm(2, elementwise_affine=False)]))
    assert _get_lora_device(packed) == torch.device("cpu")
    assert plain.weight.shape == (2, 2)


def weights(seed: int) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    generator = torch.Generator().manual_seed(seed)
    a = tuple(torch.randn(SLOTS, 1, RANK, INPUTS, generator=generator) for _ in SLICES)
    b = tuple(torch.randn(SLOTS, 1, size, RANK, generator=generator) for size in SLICES)
    return a, b


def token_by_token(
    y: torch.Tensor, x: torch.Tensor, slots: list[int], scale: float, seed: int
) -> torch.Tensor:
    """The definition."""
    lora_a, lora_b = weights(seed)
    y = y.clone()
    for token, slot in enumerate(slots):
        start = 0
        for a, b, size in zip(lora_a, lora_b, SLICES, strict=True):
            if slot >= 0:
                y[token, start : start + size] += scale * (b[slot, 0] @ (a[slot, 0] @ x[token]))
            start += size
    return y


def lora(kind: type[PunicaWrapperCPU], slots: list[int]) -> PunicaWrapperCPU:
    """vLLM's wrapper, told of a batch of tokens as the model runner tells it."""
    from vllm.lora.layers import LoRAMapping

    wrapper = kind(256, 256, torch.device("cpu"))
    ids = [slot + 1 for slot in slots]  # LoRA ids count from 1, 0 is none
    mapping = LoRAMapping(tuple(ids), tuple(ids), is_prefill=True)
    wrapper.update_metadata(mapping, [1, 2, 3], SLOTS, 100)
    return wrapper


@pytest.mark.parametrize(
    "slots",
    [[0] * 6, [-1] * 6, [2, 2, 1, 1, 0, 0], [-1, 0, -1, 2, -1, 0], [2, -1, -1, -1, -1, 2], [1], MIXED],
    ids=lambda value: str(value)[:40],
)
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_each_token_gets_its_own_adapter(slots: list[int], scale: float) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(len(slots), INPUTS, generator=generator)
    y = torch.randn(len(slots), sum(SLICES), generator=generator)
    expected = token_by_token(y, x, slots, scale, seed=2)
    lora(GroupedLora, slots).add_lora_linear(y, x, *weights(2), scale, SLICES)
    torch.testing.assert_close(y, expected)


def test_a_row_is_the_same_to_the_bit_in_a_run_and_in_a_piece() -> None:
    """So that an answer does not depend on what else is in the batch."""
    x, y = torch.randn(70, INPUTS).bfloat16(), torch.randn(70, sum(SLICES)).bfloat16()
    a, b = (tuple(one.bfloat16() for one in some) for some in weights(2))
    whole, mixed = y.clone(), y.clone()
    lora(GroupedLora, [1] * 70).add_lora_linear(whole, x, a, b, 1.0, SLICES)
    slots = [1, 0, 2] * 23 + [1]
    lora(GroupedLora, slots).add_lora_linear(mixed, x, a, b, 1.0, SLICES)
    assert torch.equal(whole[::3], mixed[::3])


def test_adapters_may_be_kept_in_another_type_than_the_model() -> None:
    x, y = torch.randn(len(MIXED), INPUTS), torch.randn(len(MIXED), sum(SLICES)).bfloat16()
    expected = token_by_token(y.float(), x, MIXED, 1.0, seed=2).bfloat16()
    lora(GroupedLora, MIXED).add_lora_linear(y, x, *weights(2), 1.0, SLICES)
    torch.testing.assert_close(y, expected)


def test_vllm_still_gives_tokens_without_an_adapter_the_last_one() -> None:
    """Why this module exists. When this fails, vLLM is mended: see whether the module can go."""
    x, y = torch.ones(2, INPUTS), torch.zeros(2, sum(SLICES))
    lora(PunicaWrapperCPU, [0, -1]).add_lora_linear(y, x, *weights(2), 1.0, SLICES)
    assert y[1].abs().sum() > 0


def test_long_runs_of_an_adapter_are_products_of_their_own() -> None:
    slots = [2] * 70 + [-1] * 3 + [0] * 64 + [2] * 80
    groups = group(torch.tensor(slots))
    assert groups.runs == ((2, slice(0, 70)), (0, slice(73, 137)), (2, slice(137, 217)))
    assert groups.pieces is None
    assert group(torch.tensor([1, 1, -1, 0])).runs == ((1, slice(0, 2)), (0, slice(3, 4)))
    assert group(torch.tensor([-1, -1])) == Groups((), None)


def test_short_groups_are_cut_into_pieces_of_their_mean_length() -> None:
    groups = group(torch.tensor([2, 0, 0, -1, 2, 1, *[1] * 70, 2, 2]))
    assert groups.runs == ((1, slice(5, 76)),)
    assert groups.pieces is not None
    assert groups.pieces.slots.tolist() == [0, 2, 2]  # type: ignore[union-attr]
    assert groups.pieces.rows.tolist() == [1, 2, 2, 0, 4, 76, 77, 77, 77]
    assert groups.pieces.length == 3
    assert groups.pieces.targets.tolist() == [1, 2, 0, 4, 76, 77]
    assert groups.pieces.rows[groups.pieces.valid].tolist() == groups.pieces.targets.tolist()


def test_pieces_of_neighbouring_slots_copy_no_weights() -> None:
    pieces = group(torch.tensor([2, 2, 1, 1, 3, 3])).pieces
    assert pieces is not None
    assert (pieces.slots, pieces.length, pieces.valid) == (slice(1, 4), 2, None)


def test_an_embedding_adds_each_tokens_own_rows() -> None:
    slots = [2, 0, -1, 1, 2]
    looked_up, y = torch.randn(5, RANK), torch.zeros(5, SLICES[0])
    b = weights(3)[1][0]
    lora(GroupedLora, slots).add_lora_embedding(y, looked_up, b)
    for token, slot in enumerate(slots):
        expected = b[slot, 0] @ looked_up[token] if slot >= 0 else torch.zeros(SLICES[0])
        torch.testing.assert_close(y[token], expected)
