"""Two ways to decode a batch of lists of equal length: permutation (constrained) and free, greedy."""

from __future__ import annotations

import re

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from configs.demo.maker.prompts import Prompt
from configs.demo.maker.tokenizer import BEGIN, END, TURN_END

IDENTIFIER = re.compile(r"\[(\d+)\]")


class Decoder:
    """Decodes batches of prompts with one model, its adapter included."""

    def __init__(self, model: nn.Module, tokenizer: Tokenizer) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.ends = [tokenizer.token_to_id(token) for token in (END, TURN_END)]
        self.numbers = [tokenizer.token_to_id(str(number)) for number in range(101)]

    def _prefill(self, prompts: list[Prompt], opening: str) -> tuple[Tensor, Tensor]:
        texts = [BEGIN + prompt.text + opening for prompt in prompts]
        rows = [self.tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        width = max(len(row) for row in rows)
        tokens = torch.tensor([[self.ends[0]] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        return tokens, mask

    def _forward(self, tokens: Tensor, mask: Tensor, cache: object) -> tuple[Tensor, object]:
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        out = self.model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return out.logits[:, -1].float(), out.past_key_values

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def permutations(self, prompts: list[Prompt], count: int) -> tuple[list[list[int]], Tensor]:
        """Orders, greedy over the identifiers not yet ranked with "] > [" appended, and first scores.

        Orders hold positions from 0, best first; first scores are the identifiers' logits at the first
        "[", [prompts, count].
        """
        first = prompts[0].first_identifier
        allowed = torch.tensor(self.numbers[first : first + count])
        between = [self.tokenizer.token_to_id(token) for token in ("]", "Ġ>", "Ġ[")]
        tokens, mask = self._prefill(prompts, "[")
        cache: object = None
        left = torch.ones(len(prompts), count, dtype=torch.bool)
        orders: list[list[int]] = [[] for _ in prompts]
        first_scores = torch.zeros(len(prompts), count)
        for step in range(count):
            logits, cache = self._forward(tokens, mask, cache)
            if step == 0:
                first_scores = logits[:, allowed]
            scores = logits[:, allowed].masked_fill(~left, -torch.inf)
            chosen = scores.argmax(1)
            left[torch.arange(len(prompts)), chosen] = False
            for order, choice in zip(orders, chosen.tolist(), strict=True):
                order.append(choice)
            tail = torch.tensor(between).expand(len(prompts), -1)
            tokens = torch.cat([allowed[chosen][:, None], tail], dim=1)
            mask = torch.cat([mask, torch.ones_like(tokens)], dim=1)
        return orders, first_scores

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def answers(self, prompts: list[Prompt], count: int) -> list[str]:
        """Free greedy text, its end token included when one was written within 4 * count + 4 tokens."""
        tokens, mask = self._prefill(prompts, "")
        cache: object = None
        written: list[list[int]] = [[] for _ in prompts]
        for _ in range(4 * count + 4):
            logits, cache = self._forward(tokens, mask, cache)
            chosen = logits.argmax(1)
            for row, token in zip(written, chosen.tolist(), strict=True):
                if not row or row[-1] not in self.ends:
                    row.append(token)
            if all(row[-1] in self.ends for row in written):
                break
            tokens = chosen[:, None]
            mask = torch.cat([mask, torch.ones_like(tokens)], dim=1)
        return [self.tokenizer.decode(row, skip_special_tokens=False) for row in written]


def parse_answer(text: str, first_identifier: int, count: int) -> tuple[list[int], bool]:
    """Positions from 0 in the order written, the missing ones appended; and whether it was well formed.

    Well formed: every identifier once, as "[i] > [j] > ...", then an end token and nothing else.
    """
    found = [int(number) - first_identifier for number in IDENTIFIER.findall(text)]
    order = list(dict.fromkeys(position for position in found if 0 <= position < count))
    exact = " > ".join(f"[{position + first_identifier}]" for position in order)
    well_formed = len(order) == count and text in (exact + END, exact + TURN_END)
    return order + [position for position in range(count) if position not in order], well_formed
