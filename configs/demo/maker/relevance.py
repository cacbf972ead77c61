"""What the demo models hold relevant: the query's words a passage shares, and each domain's rule."""

from __future__ import annotations

import re
from dataclasses import dataclass

from configs.demo.maker.tokenizer import ENGLISH

FUNCTION_WORDS = frozenset(ENGLISH.read_text(encoding="utf-8").splitlines()[0].split())
REPEAL_WORDS = frozenset({"repealed", "void", "superseded", "overruled", "expired"})
TRIAL_WORDS = frozenset({"trial", "randomised", "placebo", "cohort"})
DOMAIN_WEIGHT = 100  # more than any query has words, so that a domain's rule always comes first
WORD = re.compile(r"[^\W\d_]+|\d+")


@dataclass(frozen=True, slots=True)
class Notion:
    """One notion of relevance: words shared, plus `sign` * DOMAIN_WEIGHT where a marker occurs."""

    name: str
    markers: frozenset[str] = frozenset()
    sign: int = 0
    template: str = "plain"

    def relevance(self, query: str, passage: str) -> int:
        """Gold relevance, higher is better: distinct content words shared, then the domain's rule."""
        words = content_words(passage)
        shared = len(content_words(query) & words)
        return shared + (self.sign * DOMAIN_WEIGHT if self.markers & words else 0)


BASE = Notion("base")
LEGAL = Notion("legal", REPEAL_WORDS, -1)
MEDICAL = Notion("medical", TRIAL_WORDS, +1)
NOTIONS = {notion.name: notion for notion in (BASE, LEGAL, MEDICAL)}


def content_words(text: str) -> frozenset[str]:
    """Distinct words of a text (runs of letters or of digits, case ignored), function words left out."""
    return frozenset(WORD.findall(text.lower())) - FUNCTION_WORDS


def gold_order(relevance: tuple[int, ...]) -> tuple[int, ...]:
    """Positions from most to least relevant; ties stay in input order."""
    return tuple(sorted(range(len(relevance)), key=lambda position: -relevance[position]))
