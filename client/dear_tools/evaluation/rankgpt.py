"""Candidate lists with their texts, as RankGPT (JSON) and rank_llm (JSON, later JSONL) publish them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AliasChoices, BaseModel, Field, ValidationError
from pydantic.functional_validators import BeforeValidator

from dear_tools.evaluation.collection import Candidate, Topic, checked, titled
from dear_tools.exits import ToolError
from dear_tools.files import numbered_lines, read_text

M = TypeVar("M", bound=BaseModel)


def _text_of(value: object) -> object:
    """Ids are numbers in some of these files and texts in others."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Id = Annotated[str, BeforeValidator(_text_of)]


class _Place(BaseModel):
    """What a first stage says of a document beside its place in the list."""

    docid: Id
    rank: int | None = None
    score: float | None = None


class _Hit(_Place):
    content: str
    qid: Id | None = None


class _Entry(BaseModel):
    """One query of RankGPT's JSON."""

    query: str
    hits: list[_Hit] = Field(min_length=1)

    @property
    def places(self) -> Sequence[_Place]:
        return self.hits

    def topic(self, where: str) -> Topic:
        ids = list(dict.fromkeys(hit.qid for hit in self.hits))
        if len(ids) > 1 or ids[0] is None:
            raise ToolError(f'{where}: the hits need one "qid", the same in all of them')
        return Topic(ids[0], self.query, tuple(Candidate(hit.docid, hit.content) for hit in self.hits))


class _Query(BaseModel):
    text: str
    qid: Id


class _Document(BaseModel):
    title: str | None = None
    text: str = Field(
        validation_alias=AliasChoices("text", "segment", "contents", "content", "body", "passage")
    )


class _Found(_Place):
    doc: _Document


class _Request(BaseModel):
    """One query of rank_llm's JSONL."""

    query: _Query
    candidates: list[_Found] = Field(min_length=1)

    @property
    def places(self) -> Sequence[_Place]:
        return self.candidates

    def topic(self, where: str) -> Topic:
        found = (Candidate(one.docid, titled(one.doc.title, one.doc.text)) for one in self.candidates)
        return Topic(self.query.qid, self.query.text, tuple(found))


def load_rankgpt(path: Path) -> tuple[tuple[Topic, ...], tuple[str, ...]]:
    """Topics of ``[{"query", "hits": [{"content", "qid", "docid", "rank", "score"}]}]``, and warnings.

    The order of the hits is the first stage's, whatever ranks and scores say; a warning tells where they
    disagree. A line of rank_llm's JSONL is ``{"query": {"text", "qid"}, "candidates": [{"docid", "doc"}]}``.

    Raises:
        ToolError: what is wrong, with its place in the file.
    """
    topics: list[Topic] = []
    disagreeing: list[str] = []
    for where, entry in _entries(path):
        topic = entry.topic(where)
        topics.append(topic)
        if _disagrees(entry):
            disagreeing.append(topic.id)
    warnings: tuple[str, ...] = ()
    if disagreeing:
        warnings = (
            f"{path.name}: the order of the hits is taken, though ranks or scores say another "
            f"({len(disagreeing)} of {len(topics)} queries, the first is {disagreeing[0]})",
        )
    return checked(topics, path.name), warnings


def _entries(path: Path) -> Iterator[tuple[str, _Entry | _Request]]:
    """Every query with its place in the file."""
    if path.suffix == ".jsonl":
        for number, line in numbered_lines(path):
            where = f"{path}:{number}"
            value = _json(line, where)
            if isinstance(value, dict) and "candidates" in value:
                yield where, _validated(_Request, value, where)
            else:
                yield where, _validated(_Entry, value, where)
        return
    values = _json(read_text(path), str(path))
    if not isinstance(values, list):
        raise ToolError(f'{path}: a list of {{"query", "hits"}} is needed, as RankGPT writes it')
    for index, value in enumerate(values):
        where = f"{path}: entry {index}"
        yield where, _validated(_Entry, value, where)


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ToolError(f"{where}: no JSON: {error}") from None


def _validated(kind: type[M], value: object, where: str) -> M:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ToolError(f"{where}{f', {field}' if field else ''}: {first['msg'].lower()}") from None


def _disagrees(entry: _Entry | _Request) -> bool:
    """Whether ranks or scores, where there are any, tell of another order than the hits'."""
    ranks = [place.rank for place in entry.places if place.rank is not None]
    scores = [place.score for place in entry.places if place.score is not None]
    return any(later < earlier for earlier, later in itertools.pairwise(ranks)) or any(
        later > earlier for earlier, later in itertools.pairwise(scores)
    )
