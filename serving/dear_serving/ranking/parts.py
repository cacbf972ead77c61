"""Long documents as overlapping parts, of which the best one counts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from dear_serving.types import Coverage, Explanation, OnProgress, Order, Ranking, RankTask, T

MOST_PARTS = 10_000
"""Of all documents of a task together; a document has an equal share of them, and one at least."""

_OVERLAP = 0.25
_WORD = re.compile(r"\S+")


@dataclass(frozen=True, slots=True)
class Parts:
    """A task whose passages are parts of documents.

    Args:
        task: ranks the parts, with a ``top_n`` for them.
        owners: the document of each part.
        count: documents.
        cut: documents of which only the first parts are read.
    """

    task: RankTask
    owners: Sequence[int]
    count: int
    cut: int

    def to_documents(self, ranking: Ranking) -> Ranking:
        """The documents by their best part, with that part's score."""
        order, scores = self._best(ranking.order, ranking.scores)
        coverage = ranking.coverage
        listwise = self._within(ranking.order[: coverage.listwise])
        shown = self._within(ranking.order[: coverage.listwise + coverage.one_pass])
        read = self._within(ranking.order[: len(ranking.order) - coverage.unread])
        split = sum(parts > 1 for parts in Counter(self.owners).values())
        warnings = [f"{_documents(split)} split into parts, {len(self.owners)} in all; the best one counts"]
        if self.cut:
            warnings.append(f"{_documents(self.cut)} read in part: all parts together are over {MOST_PARTS}")
        return replace(
            ranking,
            order=order,
            scores=scores,
            coverage=Coverage(listwise, shown - listwise, self.count - read, read - shown),
            first_scores=self._best(ranking.order, ranking.first_scores)[1] if ranking.first_scores else (),
            parts=len(self.owners),
            warnings=(*(warnings if split else ()), *ranking.warnings),
            explanation=ranking.explanation and self._explained(ranking.explanation),
        )

    def best(self, order: Order) -> Order:
        """The best part of each document, best first."""
        found: dict[int, int] = {}
        for part in order:
            found.setdefault(self.owners[part], part)
        return tuple(found.values())

    def on_progress(self, tell: OnProgress) -> OnProgress:
        """Told of parts, tells of documents."""
        return lambda order, scores: tell(*self._best(order, scores))

    def _best(self, order: Order, scores: Sequence[T]) -> tuple[Order, tuple[T, ...]]:
        best: dict[int, T] = {}
        for part, score in zip(order, scores, strict=True):
            best.setdefault(self.owners[part], score)
        return tuple(best), tuple(best.values())

    def _explained(self, explanation: Explanation) -> Explanation:
        """The same, of documents: once for each of a window's, where its first part stands."""

        def owners(parts: Sequence[int]) -> tuple[int, ...]:
            return tuple(dict.fromkeys(self.owners[part] for part in parts))

        windows = tuple(replace(one, passages=owners(one.passages)) for one in explanation.windows)
        return replace(explanation, windows=windows, cut=owners(explanation.cut))

    def _within(self, order: Order) -> int:
        return len({self.owners[part] for part in order})


def split_documents(task: RankTask, most_chars: int, most_words: int | None) -> Parts:
    """Split the task's passages where they are longer than a prompt shows of one.

    Args:
        task: its passages are documents.
        most_chars: of a part; as many as a prompt shows.
        most_words: of a part; None: no limit.
    """
    most = max(1, MOST_PARTS // max(1, len(task.passages)))
    texts: list[str] = []
    owners: list[int] = []
    cut = 0
    for document, text in enumerate(task.passages):
        for number, part in enumerate(split(text, most_chars, most_words)):
            if number == most:
                cut += 1
                break
            texts.append(part)
            owners.append(document)
    # The best parts of one document may stand side by side: more parts than documents have to be decided.
    needed = task.top_n and min(2 * task.top_n, len(texts))
    depth = task.cascade_depth and min(2 * task.cascade_depth, len(texts))
    split_task = replace(task, passages=texts, top_n=needed, cascade_depth=depth)
    return Parts(split_task, owners, len(task.passages), cut)


def split(text: str, most_chars: int, most_words: int | None = None) -> Iterator[str]:
    """Parts that overlap by a quarter and begin and end between words; the text itself if it is short enough.

    A word longer than a part is split within. Every character but white space is in some part.

    Args:
        text: any text.
        most_chars: of a part, >= 1.
        most_words: of a part, >= 1; None: no limit.
    """
    most_words = most_words or len(text) + 1
    if len(text) <= most_chars and len(text.split(maxsplit=most_words)) <= most_words:
        yield text
        return
    words = list(_pieces(text, most_chars))
    first = 0
    while first < len(words):
        last = first  # of this part
        start = words[first][0]
        while (
            last + 1 < len(words)
            and last + 1 - first < most_words
            and words[last + 1][1] - start <= most_chars
        ):
            last += 1
        yield text[start : words[last][1]]
        if last + 1 == len(words):
            return
        first = max(first + 1, last + 1 - int(_OVERLAP * (last + 1 - first)))


def _pieces(text: str, most_chars: int) -> Iterable[tuple[int, int]]:
    """Where words begin and end, those over ``most_chars`` in several."""
    for word in _WORD.finditer(text):
        for start in range(word.start(), word.end(), most_chars):
            yield start, min(start + most_chars, word.end())


def _documents(count: int) -> str:
    return "1 document was" if count == 1 else f"{count} documents were"
