"""The two prompts the demo models read, as text, with the span of each passage in it.

plain: the model card of DeAR-8B-Reranker-Listwise-LoRA-v1, identifiers from 0. chat: listwise_rerank/
prompts.py of DataScienceUIBK/DeAR-Reranking @ c31c739 in the Llama 3 chat template, identifiers from 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from configs.demo.maker.tokenizer import BEGIN, HEADER_END, HEADER_START, TURN_END

SYSTEM = "You are RankLLM, an assistant that ranks passages by relevance to the query."
CLOSING = (
    "Search Query: {query}.\n"
    "Rank the {num} passages above based on their relevance to the search query. The passages should"
    " be listed in descending order using identifiers.\n"
    "Please follow the steps below:\n"
    "Step 1. List the information requirements to answer the query.\n"
    "Step 2. For each requirement, find the passages containing that information.\n"
    "Step 3. Rank passages that best cover clear and diverse information. Include all passages.\n"
    "Output format strictly: [2] > [1] > [3] ... Only output the ranking using identifiers;"
    " no explanations."
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """The whole prompt as text (no leading begin token), each passage's (start, end), first identifier."""

    text: str
    spans: tuple[tuple[int, int], ...]
    first_identifier: int
    query_span: tuple[int, int]


class _Writer:
    def __init__(self) -> None:
        self.text = ""
        self.spans: list[tuple[int, int]] = []

    def passage(self, text: str) -> None:
        self.spans.append((len(self.text), len(self.text) + len(text)))
        self.text += text

    def turn(self, role: str, content: str) -> None:
        self.text += f"{HEADER_START}{role}{HEADER_END}\n\n{content}{TURN_END}"


def plain_prompt(query: str, passages: tuple[str, ...]) -> Prompt:
    """The model card's prompt; it ends with "as a list of numbers." and no newline."""
    out = _Writer()
    out.text = (
        f"I will provide you with {len(passages)} passages, each indicated by a number identifier [].\n"
        "Rank the passages based on their relevance to the search query: "
    )
    start = len(out.text)
    out.text += f"{query}.\n"
    for identifier, passage in enumerate(passages):
        out.text += f"\n[{identifier}] "
        out.passage(passage)
    out.text += (
        f"\n\nSearch Query: {query}.\nRank the passages above based on their relevance to the search"
        " query. Output the ranking as a list of numbers."
    )
    return Prompt(out.text, tuple(out.spans), 0, (start, start + len(query)))


def chat_prompt(query: str, passages: tuple[str, ...]) -> Prompt:
    """The authors' conversation with the generation prompt added; special tokens are in the text."""
    out = _Writer()
    out.turn("system", SYSTEM)
    opening = (
        f"I will provide you with {len(passages)} passages, each indicated by number identifier [].\n"
        "Rank the passages based on their relevance to query: "
    )
    start = len(out.text) + len(f"{HEADER_START}user{HEADER_END}\n\n") + len(opening)
    out.turn("user", f"{opening}{query}.")
    out.turn("assistant", "Okay, please provide the passages.")
    for identifier, passage in enumerate(passages, start=1):
        out.text += f"{HEADER_START}user{HEADER_END}\n\n[{identifier}] "
        out.passage(passage)
        out.text += TURN_END
        out.turn("assistant", f"Received passage [{identifier}].")
    out.turn("user", CLOSING.format(query=query, num=len(passages)))
    out.text += f"{HEADER_START}assistant{HEADER_END}\n\n"
    return Prompt(out.text, tuple(out.spans), 1, (start, start + len(query)))


PROMPTS = {"plain": plain_prompt, "chat": chat_prompt}
__all__ = ["BEGIN", "PROMPTS", "Prompt", "chat_prompt", "plain_prompt"]
