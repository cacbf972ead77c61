"""Lists to rank: real MS MARCO passages where they are at hand, invented ones elsewhere.

An engine that caches prefixes answers a list it has seen much faster than a new one. Lists is endless
and never gives the same list twice, so that every request of a benchmark is new to the engine but for the
template's own first words. All passages are cut to one length in tokens, so that any two lists of a size cost
the same and two arms of a comparison can have different ones.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer

from benchmarks.server import ROOT
from configs.demo.maker.lists import ListShape, ranking_lists
from dear_tools.load.lists import List, read_lists

DL19 = ROOT.parent / "shared" / "data" / "dl19" / "bm25_top100.json"
DEMO_TOKENIZER = ROOT / "configs" / "demo" / "base" / "tokenizer.json"
PASSAGE_TOKENS = 40
_TRIES = 100  # to find a new beginning by chance


class Lists:
    """Endless new lists; the same seed gives the same ones.

    Args:
        seed: of the choice of queries and passages.
        passage_tokens: every passage has that many of the tiny model's tokens, fewer where its text is short.
        data: candidates as dear_tools.load.lists reads them; where there is no such
            file, or a list is wanted that is longer than its hits, lists are invented.
    """

    def __init__(self, seed: int, passage_tokens: int = PASSAGE_TOKENS, data: Path = DL19) -> None:
        self._seed = seed
        self._passage_tokens = passage_tokens
        self._random = random.Random(seed)
        self._tokenizer: Tokenizer = Tokenizer.from_file(str(DEMO_TOKENIZER))
        self._topics = read_lists(data) if data.is_file() else []
        self._invented: dict[int, Iterator[List]] = {}
        self._given: set[tuple[str, ...]] = set()

    @property
    def text_source(self) -> str:
        """Where the texts come from, for the report."""
        if self._topics:
            return "TREC DL 2019 queries with passages of their BM25 top 100 (MS MARCO)"
        return "queries and passages invented by configs.demo.maker.lists"

    @property
    def source(self) -> str:
        """The same with the length of a passage."""
        return f"{self.text_source}, every passage cut to {self._passage_tokens} tokens"

    def new(self, passages: int) -> List:
        """A list of so many passages that was not given before; no two begin with the same passage.

        Where nearly all beginnings of the candidates were given, it is invented.
        """
        fitting = [topic for topic in self._topics if len(topic.passages) >= passages]
        for _ in range(_TRIES if fitting else 0):
            topic = self._random.choice(fitting)
            chosen = self._random.sample(topic.passages, passages)
            if self._is_new(topic.query, *map(self._cut, chosen[:1])):
                return List(topic.query, tuple(map(self._cut, chosen)))
        if passages not in self._invented:
            self._invented[passages] = self._invent(passages)
        return next(one for one in self._invented[passages] if self._is_new(one.query, *one.passages[:1]))

    def take(self, count: int, passages: int) -> list[List]:
        """``count`` new lists."""
        return [self.new(passages) for _ in range(count)]

    def _is_new(self, *beginning: str) -> bool:
        """Whether no list began so; from now on one does."""
        is_new = beginning not in self._given
        self._given.add(beginning)
        return is_new

    def _invent(self, passages: int) -> Iterator[List]:
        shape = ListShape(passages, passages, max_passage_words=90, mean_passage_words=60)
        for one in ranking_lists(self._seed, shape):
            yield List(one.query, tuple(self._cut(text) for text in one.passages))

    def _cut(self, text: str) -> str:
        offsets = self._tokenizer.encode(text, add_special_tokens=False).offsets
        return text if len(offsets) <= self._passage_tokens else text[: offsets[self._passage_tokens - 1][1]]
