"""What is ranked: a query with its candidates, in the order of the first stage."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from dear_tools.evaluation.lines import named
from dear_tools.exits import ToolError


@dataclass(frozen=True, slots=True)
class Candidate:
    """A passage that the first stage found."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Topic:
    """A query and its candidates, best of the first stage first."""

    id: str
    query: str
    candidates: tuple[Candidate, ...]

    @property
    def order(self) -> tuple[str, ...]:
        """The candidates' ids, in the first stage's order."""
        return tuple(candidate.id for candidate in self.candidates)


def titled(title: str | None, text: str) -> str:
    """A passage with its title, as RankGPT's ``run_retriever`` and rank_llm write it for BEIR."""
    return f"Title: {title} Content: {text}" if title and title.strip() else text


def checked(topics: Iterable[Topic], origin: str) -> tuple[Topic, ...]:
    """The topics, where they can be ranked and written as a TREC run.

    Raises:
        ToolError: no topic, a topic twice, one without query or candidates, a document twice in one, or an
            id that a TREC file cannot hold; ``origin`` is the file they come from.
    """
    found: dict[str, Topic] = {}
    for topic in topics:
        check_token(topic.id, f"{origin}: query id")
        if topic.id in found:
            raise ToolError(f"{origin}: query {topic.id} is there twice")
        if not topic.query.strip():
            raise ToolError(f"{origin}: query {topic.id} has no text")
        if not topic.candidates:
            raise ToolError(f"{origin}: query {topic.id} has no candidates")
        seen: set[str] = set()
        for document in topic.order:
            check_token(document, f"{origin}: query {topic.id}: document id")
            if document in seen:
                raise ToolError(f"{origin}: query {topic.id} has document {document} twice")
            seen.add(document)
        found[topic.id] = topic
    if not found:
        raise ToolError(f"{origin} has no queries")
    return tuple(found.values())


def check_token(value: str, what: str) -> None:
    """Refuse an id that the columns of a TREC file cannot hold.

    Raises:
        ToolError: it is empty or has white space in it.
    """
    if len(value.split()) != 1 or value != value.strip():
        raise ToolError(f"{what} {value!r} is empty or has a space, which no TREC file can hold")


def joined(
    orders: Mapping[str, tuple[str, ...]],
    queries: Mapping[str, str],
    texts: Mapping[str, str],
    origins: tuple[str, str, str],
) -> tuple[Topic, ...]:
    """Topics of a run and texts that stand elsewhere; ``origins`` names where run, queries and texts are.

    Raises:
        ToolError: a query or a document of the run has no text, or what ``checked`` refuses.
    """
    run, query_file, text_file = origins
    if lost := [query for query in orders if query not in queries]:
        raise ToolError(f"{query_file} has no text for queries of {run}: {named(lost)}")
    if lost := list(dict.fromkeys(one for order in orders.values() for one in order if one not in texts)):
        raise ToolError(f"{text_file} has no text for documents of {run}: {named(lost)}")
    return checked(
        (
            Topic(query, queries[query], tuple(Candidate(one, texts[one]) for one in order))
            for query, order in orders.items()
        ),
        run,
    )


def cut(topics: Iterable[Topic], depth: int) -> tuple[Topic, ...]:
    """The topics with their first ``depth`` candidates."""
    return tuple(replace(topic, candidates=topic.candidates[:depth]) for topic in topics)


def digest(topics: Iterable[Topic]) -> str:
    """A SHA-256 over everything that is ranked: ids, queries, texts, and their order."""
    sha = hashlib.sha256()
    for topic in topics:
        candidates = [(candidate.id, candidate.text) for candidate in topic.candidates]
        sha.update(json.dumps([topic.id, topic.query, candidates]).encode())
    return f"sha256:{sha.hexdigest()}"
