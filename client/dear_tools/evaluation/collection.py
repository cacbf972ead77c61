"""What is evaluated: queries with their candidates and judgements."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from dear_tools.evaluation.trec import Qrels, check_token
from dear_tools.exits import ToolError
from dear_tools.wording import named, queries


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


@dataclass(frozen=True, slots=True)
class Collection:
    """Judged topics, cut to one depth.

    Args:
        topics: what is ranked, in the order of the file.
        qrels: the queries that the means are over: those of the topics, and judged ones without candidates,
            which count as zero.
        digest: of everything that is ranked, whatever ``limit`` leaves of it.
        depth: candidates of the longest list.
        first_stage: who made the candidates' order.
    """

    name: str
    topics: tuple[Topic, ...]
    qrels: Qrels
    digest: str
    depth: int
    first_stage: str
    warnings: tuple[str, ...]

    @property
    def first_orders(self) -> dict[str, tuple[str, ...]]:
        """The first stage's orders, by query id."""
        return {topic.id: topic.order for topic in self.topics}


def collect(
    name: str,
    topics: Sequence[Topic],
    qrels: Qrels,
    *,
    depth: int,
    limit: int | None = None,
    first_stage: str = "first stage",
    warnings: Sequence[str] = (),
) -> Collection:
    """Join topics with their judgements.

    Topics without judgements are left out, with a warning. Judged queries without candidates count as zero,
    with a warning: RankGPT and its successors evaluate with ``trec_eval -c``, and a reranker's means are
    comparable with theirs only so. With ``limit`` the first so many topics are all there is.

    Raises:
        ToolError: no topic has judgements.
    """
    said = list(warnings)
    judged = [topic for topic in topics if topic.id in qrels]
    if not judged:
        raise ToolError(
            f"none of the {queries(len(topics))} of {name} has judgements: "
            f"ranked {named(topic.id for topic in topics)}; judged {named(qrels)}"
        )
    known = {topic.id for topic in topics}
    if unjudged := [topic.id for topic in topics if topic.id not in qrels]:
        said.append(f"{queries(len(unjudged))} of {name} without judgements are left out: {named(unjudged)}")
    whole = cut(judged, depth)
    used = whole[:limit]
    if len(used) < len(judged):
        said.append(f"only the first {len(used)} of {queries(len(judged))}: no mean here is a collection's")
        counted = {topic.id: qrels[topic.id] for topic in used}
    else:
        counted = dict(qrels)
        if lost := [query for query in counted if query not in known]:
            said.append(
                f"{queries(len(lost))} judged and without candidates count as zero, as in the published "
                f"figures (trec_eval -c): {named(lost)}"
            )
    if blank := [topic.id for topic in used if any(not one.text.strip() for one in topic.candidates)]:
        said.append(f"{queries(len(blank))} with candidates whose text is empty: {named(blank)}")
    longest = max(len(topic.candidates) for topic in whole)
    return Collection(name, used, counted, digest(whole), longest, first_stage, tuple(said))
