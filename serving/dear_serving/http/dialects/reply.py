"""The reply of the dialects with ``documents``, as the OpenAPI document publishes it.

Typed dicts: the reply is made as a plain dict, and mypy holds it to the schema at no cost to a request.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict  # pydantic reads typing's from Python 3.12 on

from dear_serving.types import InstructionPlace, Scoring


class DearResult(TypedDict):
    """What is known of one document."""

    first_stage_score: Annotated[
        float, Field(ge=0, le=1, description="The first stage's probability that it is relevant.")
    ]


class Result(TypedDict):
    """A document's place: results are best first."""

    index: Annotated[int, Field(ge=0, description="The document's place in the request.")]
    relevance_score: Annotated[float, Field(ge=0, le=1, description="Always falls along the results.")]
    confidence: NotRequired[
        Annotated[
            float | None,
            Field(
                ge=0,
                le=1,
                description="With dear.confidence: it rightly stands before the next; null: none follows.",
            ),
        ]
    ]
    certified: NotRequired[
        Annotated[bool, Field(description="With dear.confidence: whether the windows prove this place.")]
    ]
    document: NotRequired[Annotated[dict[str, Any], Field(description="With return_documents.")]]
    dear: NotRequired[Annotated[DearResult, Field(description="With strategies pointwise and cascade.")]]


class Usage(TypedDict):
    """Tokens of all windows."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Repairs(TypedDict):
    """Mistakes in the model's free text that were mended, counted."""

    repeated: int
    missing: int
    out_of_range: int
    unparseable: int


class RanksMeta(TypedDict):
    """How ranks were made: by listwise windows, by one forward pass of a window, by the first stage alone,
    not at all."""

    listwise: int
    one_pass: int
    pointwise: NotRequired[Annotated[int, Field(description="With strategies pointwise and cascade.")]]
    unread: Annotated[int, Field(description="Over max_prompt_tokens, or left out by deepen; as they came.")]


class WindowMeta(TypedDict):
    """When a window ran, in milliseconds after the request arrived."""

    round: Annotated[int, Field(description="From 0; windows of one round run at once.")]
    start_ms: float
    end_ms: float
    queue_ms: Annotated[float, Field(description="How long of it the window waited for its turn.")]
    documents: Annotated[list[int], Field(description="The documents it showed, in that order.")]


class ExplanationMeta(TypedDict):
    """With `explain`: how the order came about."""

    total_ms: Annotated[float, Field(description="From the request's arrival to its order.")]
    windows: Annotated[list[WindowMeta], Field(description="In the order they ended.")]
    cut_documents: Annotated[list[int], Field(description="Those of which a part was not shown.")]


class DearMeta(TypedDict):
    """How the order was made."""

    strategy: str
    strategy_reason: str | None
    scoring: Scoring
    ranks: Annotated[RanksMeta, Field(description="How many ranks were made how, best ranks first.")]
    windows: int
    rounds: int
    repairs: Repairs
    score_type: Annotated[
        str, Field(description="What relevance_score means: first_step, pointwise or rank.")
    ]
    revision: Annotated[str, Field(description="The adapter revision or base model that answered.")]
    queue_ms: float
    engine_ms: float
    passes: Annotated[int, Field(description="Forward passes that chose identifiers, of all windows.")]
    drafts: Annotated[int, Field(description="Forced and guessed tokens that these passes verified.")]
    accepted_drafts: Annotated[int, Field(description="Those that held.")]
    confidence: NotRequired[
        Annotated[float | None, Field(description="With dear.confidence: the mean of the results'.")]
    ]
    certified: NotRequired[
        Annotated[int, Field(description="With dear.confidence: how many of the first places are certified.")]
    ]
    parts: NotRequired[
        Annotated[int, Field(description="Of all documents, with long_documents max_passage.")]
    ]
    first_stage: NotRequired[
        Annotated[str, Field(description="The revision or base model that scored the documents one by one.")]
    ]
    scored: NotRequired[Annotated[int, Field(description="How many documents, or parts, it scored.")]]
    reasoning: NotRequired[Annotated[list[str], Field(description="One text a window.")]]
    instruction: NotRequired[
        Annotated[InstructionPlace, Field(description="Where the prompt has the request's instruction.")]
    ]
    explanation: NotRequired[ExplanationMeta]


class ApiVersion(TypedDict):
    """As Cohere's."""

    version: str


class BilledUnits(TypedDict):
    """As Cohere's: one search unit for each hundred documents."""

    search_units: int


class Tokens(TypedDict):
    """As Cohere's."""

    input_tokens: int
    output_tokens: int


class Meta(TypedDict):
    """As Cohere's, and our own under ``dear``."""

    api_version: ApiVersion
    billed_units: BilledUnits
    tokens: Tokens
    warnings: list[str]
    dear: DearMeta


class RerankReply(TypedDict):
    """One reply for the clients of Cohere, Jina and vLLM."""

    id: str
    model: str
    object: Literal["list"]
    results: list[Result]
    usage: Usage
    meta: Meta
