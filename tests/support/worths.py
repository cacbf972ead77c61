"""Tasks whose right order can be read off the prompt, and an engine that does."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from dear_serving.protocol import GenerationRequest, PermutationRequest
from dear_serving.ranking.prompts import PromptBuilder
from dear_serving.types import RankTask
from tests.support.fake_engine import FakeEngine

QUERY = "who is worth most"
_WORTH = re.compile(r"\[(\d+)\] worth (\d+)\b")


def task_of(worths: Sequence[int], **options: object) -> RankTask:
    return RankTask(QUERY, [f"worth {worth}" for worth in worths], **options)


def best_first(worths: Sequence[int]) -> list[int]:
    return sorted(range(len(worths)), key=lambda place: (-worths[place], place))


def shown_worths(builder: PromptBuilder, token_ids: Sequence[int]) -> list[int]:
    """The worth at each position of the window that a prompt shows."""
    text = builder.tokenizer.decode(token_ids)
    worths = {int(identifier): int(worth) for identifier, worth in _WORTH.findall(text)}
    return [worths[identifier] for identifier in sorted(worths)]


def writing(builder: PromptBuilder) -> Callable[[GenerationRequest], str]:
    """Ranks by the number in each passage, highest first, as free text."""
    first = builder.template.first_identifier

    def write(request: GenerationRequest) -> str:
        order = best_first(shown_worths(builder, request.token_ids))
        return " > ".join(f"[{first + place}]" for place in order)

    return write


def preferring(builder: PromptBuilder) -> Callable[[PermutationRequest], Sequence[int]]:
    """The same, identifier by identifier."""
    return lambda request: best_first(shown_worths(builder, request.token_ids))


def engine_of(builder: PromptBuilder) -> FakeEngine:
    return FakeEngine(writing(builder), preferring(builder))
