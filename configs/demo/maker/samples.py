"""Training samples: a prompt and its answer as tokens, with everything the losses compare against."""

from __future__ import annotations

import random
from bisect import bisect_left
from dataclasses import dataclass
from itertools import accumulate

from tokenizers import Tokenizer

from configs.demo.maker.lists import RankingList
from configs.demo.maker.prompts import PROMPTS, Prompt
from configs.demo.maker.relevance import WORD, content_words
from configs.demo.maker.tokenizer import BEGIN, END, TURN_END


@dataclass(frozen=True, slots=True)
class Sample:
    """Tokens of prompt and answer; positions index into them.

    labels: (position, token that should follow). choices: positions of each "[" of the answer, with
    the passages (from 0) not yet written there. matches: (position just after a word of a passage,
    whether it is a first shared word). ends: position just after each passage.
    """

    tokens: list[int]
    labels: list[tuple[int, int]]
    choices: list[tuple[int, tuple[int, ...]]]
    matches: list[tuple[int, bool]]
    ends: list[int]
    relevance: tuple[int, ...]
    first_identifier: int


def token_starts(tokenizer: Tokenizer, tokens: list[int]) -> list[int]:
    """Character offset at which each token starts, for ASCII text behind a leading begin token."""
    names = [tokenizer.id_to_token(token) for token in tokens[1:]]
    return [-1, *accumulate((len(name) for name in names), initial=0)][: len(tokens)]


def noisy_order(rng: random.Random, order: tuple[int, ...]) -> list[int]:
    """The gold order, or, three times in ten, one in which some passages come too late."""
    written = list(order)
    if rng.random() < 0.3:
        for _ in range(rng.randint(1, 3)):
            moved = written.pop(rng.randrange(len(written)))
            written.insert(rng.randint(0, len(written)), moved)
    return written


def make_sample(tokenizer: Tokenizer, item: RankingList, template: str, rng: random.Random) -> Sample:
    """One sample; the label at each "[" is the best passage left, whatever is written there."""
    prompt = PROMPTS[template](item.query, item.passages)
    tokens = tokenizer.encode(BEGIN + prompt.text, add_special_tokens=False).ids
    prompt_length = len(tokens)
    matches, ends = word_labels(tokenizer, tokens, prompt, item)
    one = {name: tokenizer.token_to_id(name) for name in ("[", "Ġ[", "]", "Ġ>", END, TURN_END)}
    numbers = [
        tokenizer.token_to_id(str(position + prompt.first_identifier))
        for position in range(len(item.passages))
    ]
    left = list(item.order)
    labels: list[tuple[int, int]] = []
    choices: list[tuple[int, tuple[int, ...]]] = []
    for place, written in enumerate(noisy_order(rng, item.order)):
        opening = one["["] if place == 0 else one["Ġ["]
        if place:
            labels.append((len(tokens) - 1, one["Ġ>"]))
            tokens.append(one["Ġ>"])
        labels.append((len(tokens) - 1, opening))
        tokens.append(opening)
        labels.append((len(tokens) - 1, numbers[left[0]]))
        choices.append((len(tokens) - 1, tuple(left)))
        tokens.append(numbers[written])
        labels.append((len(tokens) - 1, one["]"]))
        tokens.append(one["]"])
        left.remove(written)
    labels.append((len(tokens) - 1, one[TURN_END if template == "chat" else END]))
    assert labels[0][0] == prompt_length - 1
    first = prompt.first_identifier
    return Sample(tokens, labels, choices, matches, ends, item.relevance, first)


def word_labels(
    tokenizer: Tokenizer, tokens: list[int], prompt: Prompt, item: RankingList
) -> tuple[list[tuple[int, bool]], list[int]]:
    """Where each word of each passage is over and whether it counts; where each passage is over."""
    starts = token_starts(tokenizer, tokens)
    query = content_words(item.query)
    matches: list[tuple[int, bool]] = []
    ends: list[int] = []
    for (begin, end), passage in zip(prompt.spans, item.passages, strict=True):
        seen: set[str] = set()
        for word in WORD.finditer(passage.lower()):
            counts = word.group() in query and word.group() not in seen
            seen.add(word.group())
            matches.append((bisect_left(starts, begin + word.end()), counts))
        ends.append(bisect_left(starts, end))
    return matches, ends
