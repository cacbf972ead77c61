"""The first stage's adapter: after the template yes-no it answers yes the surer, the more words match.

Written into a LoRA as markers.py writes a rule. Layer 4's heads have left there, at every token, how many of
the query's words the passage held so far, as w / (w + count). That layer's MLP, unused in the base, turns it
into the difference of the two answers' embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from peft import PeftModel
from tokenizers import Tokenizer
from torch import nn

from configs.demo.maker import layout as at
from configs.demo.maker.markers import LoraWriter, vector
from configs.demo.maker.structure import OPEN_GATE
from configs.demo.maker.tokenizer import BEGIN

NAME = "pointwise"
YES, NO = " yes", " no"
PROMPT = "Answer yes or no, is this passage relevant to the search query: {query}\n\n[0] {passage}\n\nAnswer:"
"""As in dear_serving/ranking/templates/yes-no.yaml."""

UNIT, UNITS = 0, 512
LOG_ODDS = 60.0  # yes against no, for a share of matches that falls by 1, before the last norm
EVEN = 1.1  # so that one word makes no, two make yes; the base itself leans to no


def first_token(tokenizer: Tokenizer, label: str) -> int:
    """The token that a label begins with, which is what tells it from the other."""
    return int(tokenizer.encode(label, add_special_tokens=False).ids[0])


@torch.inference_mode()  # type: ignore[untyped-decorator]
def log_odds(model: nn.Module, tokenizer: Tokenizer, query: str, passages: Sequence[str]) -> list[float]:
    """The log odds of yes against no after each passage."""
    labels = [first_token(tokenizer, label) for label in (YES, NO)]
    texts = [BEGIN + PROMPT.format(query=query, passage=passage) for passage in passages]
    rows = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    width = max(map(len, rows))
    tokens = torch.tensor([row + [labels[0]] * (width - len(row)) for row in rows])
    ends = torch.tensor([len(row) - 1 for row in rows])
    logits = model(input_ids=tokens).logits[torch.arange(len(rows)), ends].float()
    odds: list[float] = (logits[:, labels[0]] - logits[:, labels[1]]).tolist()
    return odds


@torch.no_grad()  # type: ignore[untyped-decorator]
def write_answer(model: PeftModel, tokenizer: Tokenizer) -> None:
    """Writes the answer into the (fresh) adapter of ``model``."""
    embeddings = model.base_model.model.model.embed_tokens.weight.data
    towards = embeddings[first_token(tokenizer, YES)] - embeddings[first_token(tokenizer, NO)]
    gate, up, down = (LoraWriter(model, 4, f"mlp.{name}_proj") for name in ("gate", "up", "down"))
    unit = vector(UNITS, {UNIT: 1.0})
    gate.add(unit, vector(at.HIDDEN, {at.CONST: 4 / at.CONST_VALUE}))
    up.add(unit, vector(at.HIDDEN, {at.CONST: EVEN / at.CONST_VALUE, at.COUNT_B: -1.0}))
    down.add(towards / towards.square().sum() * LOG_ODDS / OPEN_GATE, unit)
