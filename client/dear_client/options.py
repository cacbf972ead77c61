"""The options of a reranking: declared here, and nowhere else in the client and its tools."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypedDict

from dear_client.errors import InvalidCall
from dear_client.models import Document

Strategy = Literal[
    "auto",
    "single",
    "sliding",
    "merge2",
    "joint",
    "tourrank",
    "funnel",
    "blitz",
    "deepen",
    "pointwise",
    "cascade",
]
LongDocuments = Literal["cut", "max_passage"]
Scoring = Literal["permutation", "generate", "first_token"]


@dataclass(frozen=True, slots=True)
class Option:
    """The documentation of an option.

    Args:
        help: one or two sentences.
        at_least: the lowest value.
        on_command_line: whether the commands offer it; not where each request needs a value of its own, or
            where they would not show what it brings.
    """

    help: str
    at_least: float | None = None
    on_command_line: bool = True


class RerankOptions(TypedDict, total=False):
    """Options of a reranking. None, or left out, is the server's default."""

    model: Annotated[
        str | None, Option("An adapter's name or the base model's id; else the server's default.")
    ]
    top_n: Annotated[int | None, Option("Rank and return only so many, the best; else all.", at_least=1)]
    strategy: Annotated[Strategy | None, Option("How lists longer than one window are ranked.")]
    window_size: Annotated[int | None, Option("Passages in a window.", at_least=2)]
    step: Annotated[int | None, Option("Step of the sliding window.", at_least=1)]
    scoring: Annotated[
        Scoring | None, Option("permutation decodes identifiers, generate free text, first_token one pass.")
    ]
    passes: Annotated[int | None, Option("Rank so many shuffled orders, and average the ranks.", at_least=1)]
    reasoning: Annotated[bool | None, Option("Whether the model reasons before it ranks.")]
    deadline_s: Annotated[
        float | None, Option("Seconds after which the server replies with what is decided.", at_least=0.001)
    ]
    max_passage_tokens: Annotated[int | None, Option("Cut each passage after so many tokens.", at_least=1)]
    cascade_depth: Annotated[
        int | None, Option("How many of the first stage's best a cascade ranks listwise.", at_least=1)
    ]
    long_documents: Annotated[
        LongDocuments | None, Option("cut: their beginning counts; max_passage: the best of their parts.")
    ]
    max_prompt_tokens: Annotated[
        int | None, Option("Most prompt tokens of all windows; auto fits itself to it.", at_least=1)
    ]
    looks: Annotated[
        int | None, Option("How often joint shows each passage, and blitz the head.", at_least=1)
    ]
    confidence: Annotated[bool | None, Option("Say of each rank how sure it is.")]
    rank_fields: Annotated[
        Sequence[str] | None,
        Option("Fields of object documents that the model reads, instead of text.", on_command_line=False),
    ]
    instruction: Annotated[str | None, Option("What the order is for, in words.")]
    explain: Annotated[
        bool | None,
        Option("Whether the reply says when each window ran, and what was cut.", on_command_line=False),
    ]
    priority: Annotated[int | None, Option("0 (first) to 999, among requests that wait.", at_least=0)]
    request_id: Annotated[
        str | None, Option("The id in the server's logs, instead of a random one.", on_command_line=False)
    ]
    traceparent: Annotated[
        str | None,
        Option("The span that it is part of, instead of OpenTelemetry's current one.", on_command_line=False),
    ]


class RerankRequest(RerankOptions):
    """One reranking of many: a query with its documents, and options of its own."""

    query: str
    documents: Sequence[Document]


_READ_HERE: dict[str, tuple[type, ...]] = {
    "top_n": (int,),
    "deadline_s": (int, float),
    "request_id": (str,),
    "traceparent": (str,),
}
"""Options that the client itself reads; the server checks the rest."""


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse options that do not exist, and those that the client itself could not read.

    Raises:
        InvalidCall: names the option, and what it may have been meant to be.
    """
    for name, value in options.items():
        if name not in RerankOptions.__annotations__:
            close = difflib.get_close_matches(str(name), RerankOptions.__annotations__, n=1)
            raise InvalidCall(
                f"there is no option {name!r}" + (f"; do you mean {close[0]!r}?" if close else "")
            )
        if value is not None and not isinstance(value, _READ_HERE.get(name, object)):
            raise InvalidCall(f"{name}: it cannot be of type {type(value).__name__}")
