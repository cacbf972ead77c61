"""What is evaluated: topics that have judgements, and what the means are taken over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dear_tools.evaluation.lines import named, queries
from dear_tools.evaluation.qrels import Qrels
from dear_tools.evaluation.topics import Topic, cut, digest
from dear_tools.exits import ToolError


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
