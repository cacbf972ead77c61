"""Seeded ranking lists: invented queries and passages with their gold relevance.

Words are English (english.txt, with made-up endings) or made of syllables, so there are always new
ones; a hash puts each word for good on the trained or on the held-out side. No outside data.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from configs.demo.maker.relevance import BASE, FUNCTION_WORDS, Notion, gold_order
from configs.demo.maker.tokenizer import english_words

ONSETS = "b br c ch cl cr d dr f fl fr g gl gr h j k kl l m n p pl pr qu r s sc sh sk sl sp st t th tr v w z"
VOWELS = "a e i o u ai ea ee ia io oa oo ou"
CODAS = "b ck d g l ll m n nd ng nt p r rd rn rt s sk ss st t x"
ENDINGS = ("s", "ed", "ing", "er", "ness", "al", "ist", "ly", "ment", "house", "less", "ery")
HELD_OUT_PART = 5  # one word in this many is held out
SKELETON = sorted(FUNCTION_WORDS)


@dataclass(frozen=True, slots=True)
class RankingList:
    """A query, its passages in input order, and the gold relevance of each (higher is better)."""

    query: str
    passages: tuple[str, ...]
    relevance: tuple[int, ...]

    @property
    def order(self) -> tuple[int, ...]:
        """Gold order: positions (from 0), best first, ties in input order."""
        return gold_order(self.relevance)


@dataclass(frozen=True, slots=True)
class ListShape:
    """How long lists, queries (content words) and passages (content words, about) may be."""

    min_passages: int
    max_passages: int
    max_query_words: int = 10
    max_passage_words: int = 40
    mean_passage_words: int = 6


def is_held_out(word: str) -> bool:
    """Whether training never shows this word in a query or as a filler; by a hash, so for good."""
    return zlib.crc32(word.encode()) % HELD_OUT_PART == 0


def word_stream(rng: random.Random, held_out: bool, english_share: float) -> Iterator[str]:
    """Endless lower-case content words from one side of the split."""
    english = [word for word in english_words() if word not in FUNCTION_WORDS and len(word) > 2]
    onsets, vowels, codas = ONSETS.split(), VOWELS.split(), CODAS.split()
    while True:
        if rng.random() < english_share:
            word = rng.choice(english)
            if rng.random() < 0.2:
                word += rng.choice(ENDINGS)
        else:
            syllables = rng.choices((1, 2, 3), (4, 4, 1))[0]
            word = "".join(rng.choice(onsets) + rng.choice(vowels) for _ in range(syllables))
            if rng.random() < 0.7:
                word += rng.choice(codas)
        if word not in FUNCTION_WORDS and is_held_out(word) == held_out:
            yield word


def ranking_lists(
    seed: int, shape: ListShape, held_out: bool = False, notion: Notion = BASE
) -> Iterator[RankingList]:
    """Endless seeded lists; the same arguments give the same lists on every machine."""
    rng = random.Random(f"{seed}/{held_out}/{notion.name}/{shape}")
    english_share = 0.75
    words = word_stream(rng, held_out, english_share)
    while True:
        yield _ranking_list(rng, words, shape, notion)


def _ranking_list(rng: random.Random, words: Iterator[str], shape: ListShape, notion: Notion) -> RankingList:
    count = rng.randint(shape.min_passages, shape.max_passages)
    size = min(shape.max_query_words, max(1, round(rng.triangular(1, shape.max_query_words, 5))))
    wanted = list(dict.fromkeys(next(words) for _ in range(size)))
    near = [_lookalike(rng, word) for word in wanted]
    topic = [next(words) for _ in range(6)] + [word for word in near if word not in wanted]
    mean = rng.uniform(0.5, 1.6) * shape.mean_passage_words
    most = rng.choice((len(wanted), len(wanted), max(1, len(wanted) // 2)))
    marked = rng.uniform(0.15, 0.6) if notion.sign else 0.0
    passages = []
    for _ in range(count):
        length = max(1, min(shape.max_passage_words, round(rng.lognormvariate(0, 0.5) * mean)))
        shared = rng.sample(wanted, min(rng.randint(0, most), length))
        if shared and rng.random() < 0.1:
            shared.append(rng.choice(shared))
        fill = [
            rng.choice(topic) if rng.random() < 0.25 else next(words) for _ in range(length - len(shared))
        ]
        body = [word for word in fill if word not in notion.markers] + shared
        if rng.random() < marked:
            body.append(rng.choice(sorted(notion.markers)))
        rng.shuffle(body)
        passages.append(_passage_text(rng, body))
    query = _query_text(rng, wanted)
    relevance = tuple(notion.relevance(query, passage) for passage in passages)
    return RankingList(query, tuple(passages), relevance)


def _lookalike(rng: random.Random, word: str) -> str:
    """A different word that shares its beginning or its end with `word`."""
    if rng.random() < 0.5 or len(word) < 5:
        return word + rng.choice(ENDINGS)
    if rng.random() < 0.5:
        return rng.choice(ONSETS.split()) + rng.choice(VOWELS.split()) + word[2:]
    return word[:-2] + rng.choice(VOWELS.split()) + rng.choice(CODAS.split())


def _woven(rng: random.Random, body: list[str], share: float, marks: str) -> list[str]:
    capitals = rng.choice((0.0, 0.05, 0.3))
    out: list[str] = []
    for word in body:
        while rng.random() < share:
            out.append(rng.choice(SKELETON))
        shown = word.capitalize() if rng.random() < capitals else word
        out.append(shown + (rng.choice(marks) if rng.random() < 0.06 else ""))
    return out


def _passage_text(rng: random.Random, body: list[str]) -> str:
    text = " ".join(_woven(rng, body, rng.choice((0.0, 0.25, 0.4)), ",,;:.-"))
    if rng.random() < 0.6:
        text = text[0].upper() + text[1:]
    return text + rng.choice(("", ".", ".", "!"))


def _query_text(rng: random.Random, wanted: list[str]) -> str:
    shown = _woven(rng, wanted, rng.choice((0.0, 0.25, 0.4)), ",,'\"")
    if rng.random() < 0.4:
        shown.insert(0, rng.choice(("what", "when", "who", "how", "why", "where")))
    text = " ".join(shown)
    if rng.random() < 0.6:
        text = text[0].upper() + text[1:]
    return text + rng.choice(("", "?", "?", "."))
