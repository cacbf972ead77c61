"""Training examples for a domain adapter, with the exact prompts of the server."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dear_serving.errors import InvalidRequest, SettingsError
from dear_serving.ranking.neutralise import neutralise
from dear_serving.ranking.template import Template
from dear_serving.settings import describe


class RankedList(BaseModel):
    """A query and its passages, best first."""

    model_config = ConfigDict(extra="ignore")

    query: Annotated[str, Field(min_length=1)]
    passages: Annotated[tuple[str, ...], Field(min_length=2)]


def examples(lines: Iterable[str], template: Template, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Convert ranked lists to conversations, in LLaMA-Factory's ``sharegpt`` form with OpenAI's roles.

    Args:
        lines: JSON Lines of ``RankedList``; empty lines are skipped.
        template: the prompt template that the adapter will be served with.
        seed: seed of the shuffled order of the passages; with the best first, a model would learn to copy.

    Yields:
        ``{"messages": [...]}``; the last message is the ranking.

    Raises:
        InvalidRequest: a line is not a ranked list; the message names the line.
        SettingsError: the template shows one passage, and no ranking.
    """
    if template.is_pointwise:
        raise SettingsError(f'template "{template.name}" shows one passage; these examples are rankings')
    shuffle = random.Random(seed)
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            ranked = RankedList.model_validate_json(line)
        except ValidationError as error:
            raise InvalidRequest(f"line {number}: {describe(error)}") from None
        shown = list(range(len(ranked.passages)))
        shuffle.shuffle(shown)
        yield {"messages": _conversation(template, ranked, shown)}


def _conversation(template: Template, ranked: RankedList, shown: Sequence[int]) -> list[dict[str, str]]:
    turns: list[dict[str, str]] = []

    def collect(rendered: Sequence[dict[str, str]]) -> str:
        turns.extend(rendered)
        return ""

    passages = [_as_shown(template, ranked.passages[place]) for place in shown]
    text = template.render(neutralise(ranked.query).strip(), passages, collect)
    if not turns:
        turns.append({"role": "user", "content": text})
    place_of = {passage: place for place, passage in enumerate(shown)}
    identifiers = [str(template.first_identifier + place_of[rank]) for rank in range(len(shown))]
    form = template.answer
    answer = form.opening + form.separator.join(identifiers) + form.separator.partition(" ")[0]
    return [*turns, {"role": "assistant", "content": answer}]


def _as_shown(template: Template, passage: str) -> str:
    return template.cut(neutralise(template.normalise(neutralise(passage))))
