"""The prompt and the parser of the model card, for every peer that ranks as the card does.

Source: "Complete Reranking Pipeline" on https://huggingface.co/abdoelsayed/dear-8b-reranker-listwise-lora-v1,
create_prompt and parse_ranking.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

MAX_PASSAGE_CHARS = 300
MAX_PROMPT_TOKENS = 2048

_IDENTIFIER = re.compile(r"\[(\d+)\]")


def card_prompt(query: str, passages: Sequence[str]) -> str:
    """The card's prompt as text: passages cut to 300 characters, identifiers from 0, nothing neutralised."""
    shown = "\n".join(f"[{rank}] {passage[:MAX_PASSAGE_CHARS]}" for rank, passage in enumerate(passages))
    return (
        f"I will provide you with {len(passages)} passages, each indicated by a number identifier [].\n"
        f"Rank the passages based on their relevance to the search query: {query}.\n"
        "\n"
        f"{shown}\n"
        "\n"
        f"Search Query: {query}.\n"
        "Rank the passages above based on their relevance to the search query. "
        "Output the ranking as a list of numbers."
    )


def card_ranking(text: str, count: int) -> tuple[list[int], int]:
    """What the card reads out of ``text``: every bracketed number below ``count``, then what is missing.

    As on the card, a number written twice stays twice, so that the result may be no permutation.

    Returns:
        The ranking, and how many of its places the text itself decides.
    """
    written = [int(number) for number in _IDENTIFIER.findall(text) if int(number) < count][:count]
    ranking = written + [rank for rank in range(count) if rank not in written]
    return ranking[:count], len(written)


def answer_tokens(count: int) -> int:
    """Tokens that ``[4] > [1] > ...`` takes for ``count`` passages: four each, one less for the last.

    The card allows 50, which end a list after the 13th passage; a whole order needs these.
    """
    return 4 * count - 1
