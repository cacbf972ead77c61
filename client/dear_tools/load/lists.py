"""Lists to rank in a load test: from a file or invented, no two equal."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from dear_tools.exits import ToolError
from dear_tools.files import read_text
from dear_tools.load.lengths import Lengths

_TRIES = 100

# Common words, one token each in most vocabularies: an invented text has about as many tokens as words.
_WORDS = (Path(__file__).with_name("words.txt")).read_text(encoding="utf-8").split()


@dataclass(frozen=True, slots=True)
class List:
    """A query with the passages to rank for it."""

    query: str
    passages: tuple[str, ...]


class Lists(Protocol):
    """An endless supply of lists."""

    def next(self) -> List:
        """A new list; raises ToolError where there is none."""

    def describe(self) -> dict[str, Any]:
        """Where they come from, for the report."""


@dataclass(slots=True)
class InventedLists:
    """Lists of common words; some passages share words with the query, so that there is something to rank."""

    passages: Lengths
    words: Lengths
    random: random.Random

    def next(self) -> List:
        """See Lists. Two equal ones are practically impossible."""
        query = self.random.sample(_WORDS, 6)
        return List(
            " ".join(query), tuple(self._passage(query) for _ in range(self.passages.draw(self.random)))
        )

    def describe(self) -> dict[str, Any]:
        """See Lists."""
        return {"lists": "invented", "passages": str(self.passages), "words": str(self.words)}

    def _passage(self, query: Sequence[str]) -> str:
        words = self.random.choices(_WORDS, k=self.words.draw(self.random))
        for word in self.random.sample(query, self.random.randint(0, min(len(query), len(words)))):
            words[self.random.randrange(len(words))] = word
        return " ".join(words)


@dataclass(slots=True)
class FileLists:
    """Lists made of a file's: its passages in a new order each time, and as many of them as are asked for.

    ``passages`` and ``words`` None keep each list's own count, and each passage's whole text.
    """

    topics: Sequence[List]
    passages: Lengths | None
    words: Lengths | None
    random: random.Random
    name: str
    _given: set[int] = field(default_factory=set)
    _used_up: set[List] = field(default_factory=set)
    _round: Iterator[List] = field(default_factory=lambda: iter(()))

    def next(self) -> List:
        """See Lists."""
        while (topic := self._topic()) is not None:
            for _ in range(_TRIES):
                made = self._draw(topic)
                if (key := hash(made)) not in self._given:
                    self._given.add(key)
                    return made
            self._used_up.add(topic)
        raise ToolError(
            f"{self.name}: after {len(self._given)} requests no other can be made of its lists; "
            "give more lists, or --identical"
        )

    def describe(self) -> dict[str, Any]:
        """See Lists."""
        fewest = min(len(topic.passages) for topic in self.topics)
        is_short = self.passages is not None and self.passages.high > fewest
        return {
            "lists": self.name,
            "topics": len(self.topics),
            "passages": f"{self.passages or 'as in the file'}{', or all where a list has fewer' * is_short}",
            "words": str(self.words or "as in the file"),
        }

    def _topic(self) -> List | None:
        """Each topic once before any comes again; None where all are used up."""
        if (topic := next(self._round, None)) is None:
            left = [one for one in self.topics if one not in self._used_up]
            self._round = iter(self.random.sample(left, len(left)))
            topic = next(self._round, None)
        return topic

    def _draw(self, topic: List) -> List:
        count = len(topic.passages)
        if self.passages is not None:
            count = min(count, self.passages.draw(self.random))
        passages = self.random.sample(topic.passages, count)
        if self.words is not None:
            passages = [_cut(passage, self.words.draw(self.random)) for passage in passages]
        return List(topic.query, tuple(passages))


@dataclass(slots=True)
class OneList:
    """The same list every time, to measure a server's caches."""

    lists: Lists
    _one: List | None = None

    def next(self) -> List:
        """See Lists."""
        if self._one is None:
            self._one = self.lists.next()
        return self._one

    def describe(self) -> dict[str, Any]:
        """See Lists."""
        return self.lists.describe() | {"identical": True}


def _cut(text: str, words: int) -> str:
    return " ".join(text.split()[:words])


def read_lists(path: Path) -> list[List]:
    """The lists of a file: a JSON array as RankGPT writes it (``query`` and ``hits`` with a ``content``), or
    a line of JSON each with ``query`` and ``documents`` (texts, or objects with a ``text``).

    Raises:
        ToolError: it cannot be read, or what stands somewhere is no list; names the line or entry.
    """
    text = read_text(path).removeprefix("\ufeff")  # Windows' mark of UTF-8
    found = []
    if text.lstrip().startswith("["):
        try:
            entries = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ToolError(f"{path} is not valid JSON: {error}") from None
        found = [_list_of(entry, f"{path}, entry {number}") for number, entry in enumerate(entries, start=1)]
    else:
        # Not splitlines: JSON may hold other characters that end a line, such as U+2028.
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                try:
                    found.append(_list_of(json.loads(line), f"{path}, line {number}"))
                except (ValueError, RecursionError):
                    raise ToolError(f"{path}, line {number}: this is not valid JSON") from None
    if not found:
        raise ToolError(f"{path} has no lists")
    return found


def _list_of(entry: Any, where: str) -> List:
    if not isinstance(entry, dict) or not isinstance(entry.get("query"), str):
        raise ToolError(f'{where}: an object with a "query" is needed')
    if not entry["query"].strip():
        raise ToolError(f"{where}: the query is blank")
    given = entry.get("documents", entry.get("hits"))
    if not isinstance(given, list) or not given:
        raise ToolError(f'{where}: "documents" (or "hits") is needed, with at least one passage')
    passages = []
    for number, one in enumerate(given, start=1):
        text = one.get("text", one.get("content")) if isinstance(one, dict) else one
        if not isinstance(text, str):
            raise ToolError(f"{where}: passage {number} has no text")
        passages.append(text)
    return List(entry["query"], tuple(passages))
