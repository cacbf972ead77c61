"""Amazon Bedrock's dialect, as its agent runtime has it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import TypedDict  # pydantic reads typing's from Python 3.12 on

from dear_serving.errors import InvalidRequest, RequestError
from dear_serving.http.dialects.dialect import Body
from dear_serving.http.dialects.documents import head
from dear_serving.http.dialects.passages import texts_of
from dear_serving.types import Ranking, RankTask

_CODES = {
    401: "AccessDeniedException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    409: "ConflictException",
    429: "ThrottlingException",
}


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class BedrockText(_Part):
    """A text."""

    text: str


class BedrockQuery(_Part):
    """The query."""

    type: Literal["TEXT"]
    textQuery: BedrockText  # noqa: N815  # AWS's name


class BedrockDocument(_Part):
    """A text, or an object that is read as YAML."""

    type: Literal["TEXT", "JSON"]
    textDocument: BedrockText | None = None  # noqa: N815
    jsonDocument: dict[str, Any] | None = None  # noqa: N815

    @model_validator(mode="after")
    def _has_what_it_says(self) -> Self:
        if self.content is None:
            raise ValueError("textDocument or jsonDocument is needed, as type says")
        return self

    @property
    def content(self) -> str | dict[str, Any] | None:
        """What the model reads."""
        if self.type == "JSON":
            return self.jsonDocument
        return self.textDocument.text if self.textDocument else None


class BedrockSource(_Part):
    """A document in the request."""

    type: Literal["INLINE"]
    inlineDocumentSource: BedrockDocument  # noqa: N815


class BedrockModel(_Part):
    """The model, by an ARN that ends in its name, or by its name alone."""

    modelArn: Annotated[str, Field(min_length=1, max_length=2048)]  # noqa: N815


class BedrockReranker(_Part):
    """The model and how many results it gives."""

    modelConfiguration: BedrockModel  # noqa: N815
    numberOfResults: Annotated[int, Field(ge=1)] | None = None  # noqa: N815


class BedrockConfiguration(_Part):
    """How to rerank."""

    type: Literal["BEDROCK_RERANKING_MODEL"]
    bedrockRerankingConfiguration: BedrockReranker  # noqa: N815


class BedrockBody(Body):
    """Bedrock's request."""

    queries: Annotated[list[BedrockQuery], Field(json_schema_extra={"minItems": 1, "maxItems": 1})]
    sources: Annotated[list[BedrockSource], Field(json_schema_extra={"minItems": 1})]
    rerankingConfiguration: BedrockConfiguration  # noqa: N815

    def for_reply(self) -> Self:
        """See Body."""
        return self.model_copy(update={"sources": []})


class BedrockResult(TypedDict):
    """A document's place: best first."""

    index: int
    relevanceScore: float


class BedrockReply(TypedDict):
    """As Bedrock's."""

    results: list[BedrockResult]


def to_task(body: BedrockBody, max_chars: int) -> RankTask:
    """The task in a body.

    Raises:
        InvalidRequest: not one query.
    """
    if len(body.queries) != 1:
        raise InvalidRequest(f"queries: one is needed, not {len(body.queries)}", param="queries")
    reranker = body.rerankingConfiguration.bedrockRerankingConfiguration
    arn = reranker.modelConfiguration.modelArn
    documents = [one.inlineDocumentSource.content or "" for one in body.sources]
    task = body.model_copy(update={"model": body.model or arn.partition("foundation-model/")[2] or arn})
    return task.task(
        body.queries[0].textQuery.text,
        texts_of(documents, max_chars, name="sources"),
        top_n=reranker.numberOfResults,
    )


def to_reply(body: BedrockBody, task: RankTask, ranking: Ranking, request_id: str) -> BedrockReply:
    """The ranking in Bedrock's reply."""
    places = head(ranking, task.top_n)
    return {"results": [{"index": index, "relevanceScore": score} for index, score in places]}


def error(error: RequestError) -> dict[str, Any]:
    """What AWS's clients read the kind of an error from."""
    unavailable = "InternalServerException" if error.status >= 500 else "ValidationException"
    return {"code": _CODES.get(error.status, unavailable)}
