"""The losses: next token, order of all passages left, and two that watch the written circuit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaForCausalLM

from configs.demo.maker import layout as at
from configs.demo.maker.samples import Sample

TIE_WEIGHT = 0.1  # of a tied pair, earlier first, beside a pair of different relevance
MATCH_LAYER, COUNT_LAYER = 4, 5  # hidden states after this many layers


class Probes(nn.Module):  # type: ignore[misc]
    """Linear readers of the residual stream, dropped after training: word counts, passage's count.

    While the layers they read are frozen, they only show whether matching and counting still work.
    """

    def __init__(self) -> None:
        super().__init__()
        self.match = nn.Linear(at.HIDDEN, 1)
        self.count = nn.Linear(at.HIDDEN, 1)
        for layer in (self.match, self.count):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.match.weight[0, at.MATCHED] = 8.0
            self.match.bias.fill_(-4.0)


@dataclass(frozen=True, slots=True)
class Losses:
    """Means over a batch, each a scalar tensor, and the share of pairs that the logits order rightly."""

    token: Tensor
    order: Tensor
    match: Tensor
    count: Tensor
    pairwise_accuracy: float

    def total(self) -> Tensor:
        """The sum that is minimised."""
        return self.token + self.order + 0.5 * self.match + 0.05 * self.count


def batch_losses(model: LlamaForCausalLM, probes: Probes, samples: list[Sample], numbers: Tensor) -> Losses:
    """One forward pass over right-padded samples; `numbers` holds the token of each integer."""
    width = max(len(sample.tokens) for sample in samples)
    tokens = torch.ones(len(samples), width, dtype=torch.long)
    for row, sample in enumerate(samples):
        tokens[row, : len(sample.tokens)] = torch.tensor(sample.tokens)
    outputs = model.model(input_ids=tokens, output_hidden_states=True, use_cache=False)
    hidden = outputs.last_hidden_state
    rows = [(row, *label) for row, sample in enumerate(samples) for label in sample.labels]
    row, position, target = torch.tensor(rows).T
    logits = functional.linear(hidden[row, position], model.lm_head.weight).float()
    token = functional.cross_entropy(logits, target)
    order, accuracy = order_loss(hidden, model.lm_head.weight[numbers], samples)
    match = match_loss(outputs.hidden_states[MATCH_LAYER], probes, samples)
    count = count_loss(outputs.hidden_states[COUNT_LAYER], probes, samples)
    return Losses(token, order, match, count, accuracy)


def order_loss(hidden: Tensor, identifiers: Tensor, samples: list[Sample]) -> tuple[Tensor, float]:
    """RankNet over the logits of all passages left at every "[" of the answer.

    Source: Burges et al. 2005, Learning to Rank using Gradient Descent.
    """
    losses: list[Tensor] = []
    right = pairs = 0.0
    for row, sample in enumerate(samples):
        count = len(sample.relevance)
        if count < 2:
            continue
        positions = torch.tensor([position for position, _ in sample.choices])
        left = torch.zeros(count, count)
        for place, (_, passages) in enumerate(sample.choices):
            left[place, list(passages)] = 1.0
        first = sample.first_identifier
        scores = functional.linear(hidden[row, positions], identifiers[first : first + count])
        relevance = torch.tensor(sample.relevance)
        better = (relevance[:, None] > relevance[None, :]).float()
        tied = (relevance[:, None] == relevance[None, :]).float().triu(1)
        both = left[:, :, None] * left[:, None, :]
        weight = both * (better + TIE_WEIGHT * tied)
        gaps = scores.float()[:, :, None] - scores.float()[:, None, :]
        losses.append((functional.softplus(-gaps) * weight).sum() / weight.sum().clamp(min=1.0))
        right += float(((gaps[0] > 0) * better).sum())
        pairs += float(better.sum())
    return torch.stack(losses).mean(), right / max(pairs, 1.0)


def match_loss(states: Tensor, probes: Probes, samples: list[Sample]) -> Tensor:
    """Whether the word that just ended is a first shared word of its passage: binary cross entropy."""
    rows = [(row, *match) for row, sample in enumerate(samples) for match in sample.matches]
    row, position, target = torch.tensor(rows).T
    logits = probes.match(states[row, position].float())[:, 0]
    return functional.binary_cross_entropy_with_logits(logits, target.float())


def count_loss(states: Tensor, probes: Probes, samples: list[Sample]) -> Tensor:
    """How many words a passage shares, read at its end: smooth L1."""
    rows = [
        (row, end, relevance)
        for row, sample in enumerate(samples)
        for end, relevance in zip(sample.ends, sample.relevance, strict=True)
    ]
    row, position, target = torch.tensor(rows).T
    return functional.smooth_l1_loss(probes.count(states[row, position].float())[:, 0], target.float())
