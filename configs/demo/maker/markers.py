"""The adapters' starting weights: a marker word moves its passage above or below all others.

Written into a LoRA as structure.py is into the base: layer 2's MLP recognises each marker word, layer 3
carries "this passage holds one" to the passage's end, layer 5's scores rise or fall by it.
"""

from __future__ import annotations

import math

import torch
from peft import PeftModel
from tokenizers import Tokenizer
from torch import Tensor

from configs.demo.maker import layout as at
from configs.demo.maker.relevance import Notion
from configs.demo.maker.structure import BIAS, HEAD, PAIRS, SCALE

SCALING = 2.0  # alpha / r, which multiplies B A
FIRST_UNIT = 2  # units 0 and 1 of that MLP flag matches
MARKER = at.PREV_IDENTIFIER.start + 31  # a marker word just ended
MARKED = at.PREV_IDENTIFIER.start + 29  # at a passage's end: it holds a marker word
CARRIER = 2  # the free head of layer 3
VIEW = 14  # components in which that head compares segments
SEGMENT_NATS, MARKER_NATS, SINK_NATS = 40.0, 25.0, 12.0
MARKED_NATS = (50.0, 24.0, 10.0, 5.0)  # per head of layer 5, beside 30, 12, 5, 2 for the counts
PASSAGE_NATS = 40.0


class LoraWriter:
    """Writes one module's LoRA as a sum of rank-one maps, in the order they are added."""

    def __init__(self, model: PeftModel, layer: int, module: str) -> None:
        path = f"base_model.model.model.layers.{layer}.{module}"
        target = model.get_submodule(path)
        self.down: Tensor = target.lora_A["default"].weight.data
        self.up: Tensor = target.lora_B["default"].weight.data
        self.rank = 0

    def add(self, writes: Tensor, reads: Tensor) -> None:
        """Adds the map x -> writes * <reads, x>."""
        size = float(writes.norm() * reads.norm()) ** 0.5  # spread evenly over A and B
        self.down[self.rank] = reads / reads.norm() * size
        self.up[:, self.rank] = writes / writes.norm() * size / SCALING
        self.rank += 1


def vector(size: int, entries: dict[int, float]) -> Tensor:
    """A vector [size] that is zero but for the entries."""
    out = torch.zeros(size)
    for index, value in entries.items():
        out[index] = value
    return out


def segment_view(generator: torch.Generator) -> Tensor:
    """Unit columns [14, 29], one for each identifier, as far apart as descent makes them."""
    with torch.enable_grad():
        view = torch.randn(VIEW, at.IDENTIFIERS, generator=generator).requires_grad_()
        optimizer = torch.optim.Adam([view], lr=0.02)
        for _ in range(400):
            unit = view / view.norm(dim=0)
            loss = ((unit.T @ unit - torch.eye(at.IDENTIFIERS)) ** 4).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return (view / view.norm(dim=0)).detach()


def word_pattern(model: PeftModel, tokenizer: Tokenizer, word: str) -> Tensor:
    """Reads [hidden] that give 3 where `word` just ended, and less after any other word."""
    llama = model.base_model.model.model
    embeddings = llama.embed_tokens.weight.data
    nothing = llama.layers[0].mlp.up_proj.base_layer.weight.data[: at.CODE, at.CONST]
    pieces = tokenizer.encode(" " + word, add_special_tokens=False).ids[::-1]
    pattern = torch.zeros(at.HIDDEN)
    for place, region in enumerate((at.LAST, at.BEFORE_LAST, at.WORD)):
        code = nothing * at.CONST_VALUE
        if place < len(pieces):
            code = embeddings[pieces[place], at.WORD]
        pattern[region] = code / code.square().sum()
    return pattern


@torch.no_grad()  # type: ignore[untyped-decorator]
def write_markers(model: PeftModel, tokenizer: Tokenizer, notion: Notion, seed: int) -> None:
    """Writes the notion's rule into the (fresh) adapter of `model`."""
    generator = torch.Generator().manual_seed(seed)
    intermediate = 512
    units = {FIRST_UNIT + index: word for index, word in enumerate(sorted(notion.markers))}
    gate, up, down = (LoraWriter(model, 2, f"mlp.{name}_proj") for name in ("gate", "up", "down"))
    for unit, word in units.items():
        pattern = word_pattern(model, tokenizer, word)
        pattern[at.CONST] = -2.5 / at.CONST_VALUE
        gate.add(vector(intermediate, {unit: 16.0}), pattern)
    everywhere = vector(intermediate, dict.fromkeys(units, 1.0))
    up.add(everywhere, vector(at.HIDDEN, {at.CONST: 1 / at.CONST_VALUE}))
    down.add(vector(at.HIDDEN, {MARKER: 1 / 8}), everywhere)
    carry_markers(model, segment_view(generator))
    keys = LoraWriter(model, 5, "self_attn.k_proj")
    rows = [head * HEAD + BIAS for head in range(4)]
    nats = dict(zip(rows, MARKED_NATS, strict=True))
    keys.add(vector(at.HIDDEN, nats), vector(at.HIDDEN, {MARKED: float(notion.sign)}))
    passages = dict.fromkeys(range(at.SEGMENT.start, at.SEGMENT.start + at.IDENTIFIERS), PASSAGE_NATS)
    keys.add(vector(at.HIDDEN, dict.fromkeys(rows, 1.0)), vector(at.HIDDEN, passages))


def carry_markers(model: PeftModel, view: Tensor) -> None:
    """Layer 3: at each token, whether a marker word came before it in the same passage."""
    first = CARRIER * HEAD
    pairs = range(30, 30 - VIEW // 2, -1)
    components = [first + pair + part for part in (0, PAIRS) for pair in pairs]
    query, key = (LoraWriter(model, 3, f"self_attn.{name}_proj") for name in ("q", "k"))
    root = math.sqrt(SEGMENT_NATS * SCALE)
    for component, row in zip(components, view, strict=True):
        reads = torch.zeros(at.HIDDEN)
        reads[at.SEGMENT.start : at.SEGMENT.start + at.IDENTIFIERS] = row
        for side in (query, key):
            side.add(vector(at.HIDDEN, {component: root}), reads)
    constant = vector(at.HIDDEN, {at.CONST: 1 / at.CONST_VALUE})
    query.add(vector(at.HIDDEN, {first + BIAS: SCALE}), constant)
    flags = vector(at.HIDDEN, {MARKER: MARKER_NATS, at.CLOSE: SINK_NATS})
    key.add(vector(at.HIDDEN, {first + BIAS: 1.0}), flags)
    LoraWriter(model, 3, "self_attn.v_proj").add(
        vector(at.HIDDEN, {first: 1.0}), vector(at.HIDDEN, {MARKER: 1.0})
    )
    LoraWriter(model, 3, "self_attn.o_proj").add(
        vector(at.HIDDEN, {MARKED: 1.0}), vector(at.HIDDEN, {first: 1.0})
    )
