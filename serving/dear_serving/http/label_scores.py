"""vLLM's generative scoring: how probable a label is after a query and each item."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, WithJsonSchema
from starlette.responses import Response

from dear_serving.errors import EngineUnavailable, InvalidRequest, PayloadTooLarge, UnknownModel
from dear_serving.gateway.caller import Caller
from dear_serving.gateway.label_scoring import LabelTask
from dear_serving.gateway.state import GatewayState
from dear_serving.gateway.worker_process import Buffer
from dear_serving.http.body import BodyReader, encode_json, parse_object, read_parsed, validate
from dear_serving.http.dialects.dialect import MODEL
from dear_serving.http.dialects.limits import check_count
from dear_serving.http.dialects.vllm_score import ScoreReply
from dear_serving.http.openapi import WARNINGS, errors
from dear_serving.types import MAX_IDENTIFIERS

router = APIRouter(tags=["rerank"])

_TokenId = Annotated[int, Field(ge=0, lt=2**31)]
_Text = Annotated[
    Annotated[str, Tag("Text")] | Annotated[list[_TokenId], Tag("Tokens")],
    Discriminator(lambda text: "Tokens" if isinstance(text, list) else "Text"),
]


def _only_true(value: bool) -> bool:
    if not value:
        raise ValueError("only true: the engines give probabilities among the labels")
    return value


_OnlyTrue = Annotated[bool, AfterValidator(_only_true), WithJsonSchema({"type": "boolean", "const": True})]


class GenerativeScoringBody(BaseModel):
    """vLLM's request."""

    model_config = ConfigDict(
        extra="ignore",
        strict=True,
        json_schema_extra={
            "examples": [
                {
                    "model": "legal",
                    "query": "Is it about parking? ",
                    "items": ["A permit is cheap", "Garden furniture"],
                    "label_token_ids": [5, 6],
                }
            ]
        },
    )

    model: str | None = Field(None, description=MODEL)
    query: _Text = Field(description="A text, in which control tokens are plain characters, or token ids.")
    items: Annotated[list[_Text], Field(json_schema_extra={"minItems": 1})]
    label_token_ids: list[_TokenId] = Field(
        description="The labels; the first one's probability among them is the score.",
        json_schema_extra={"minItems": 2, "maxItems": MAX_IDENTIFIERS, "uniqueItems": True},
    )
    apply_softmax: _OnlyTrue | None = Field(
        None, description="Only true: the engines give probabilities among the labels."
    )
    item_first: bool | None = Field(None, description="Whether an item stands before the query.")
    add_special_tokens: bool | None = Field(None, description="Whether the prompt begins as prompts do.")
    priority: Annotated[int, Field(ge=0, le=999)] | None = Field(None, description="0 is highest.")
    request_id: str | None = Field(None, description="Has no effect; X-Request-ID has.")


def parse_label_scores(max_documents: int, body: Buffer) -> tuple[GenerativeScoringBody, tuple[str, ...]]:
    """The body, and the names of fields that vLLM's does not have."""
    data = parse_object(body)
    check_count(data, "items", max_documents)
    unknown = sorted(
        name[:64] for name in data.keys() - GenerativeScoringBody.model_fields if data[name] is not None
    )
    return validate(GenerativeScoringBody, data), tuple(unknown[:10])


@dataclass(frozen=True, slots=True, eq=False)
class _Reader(BodyReader):
    async def __call__(self, request: Request) -> tuple[GenerativeScoringBody, tuple[str, ...]]:
        """The body, read."""
        gateway: GatewayState = request.app.state.gateway
        limits = gateway.settings.limits
        parse = partial(parse_label_scores, limits.max_documents)
        return await read_parsed(request, limits.max_body_bytes, parse)


@router.post(
    "/generative_scoring",
    responses=errors(UnknownModel, EngineUnavailable) | {200: {"model": ScoreReply}},
    summary="Score labels, as vLLM",
)
@router.post("/compat/vllm-score/generative_scoring", include_in_schema=False)
async def generative_scoring(
    request: Request,
    read: Annotated[tuple[GenerativeScoringBody, tuple[str, ...]], Depends(_Reader(GenerativeScoringBody))],
) -> Response:
    """The probability that the first label follows a query and each item, among all labels. Nothing is put
    around the texts: it is the model that knows what the labels mean.
    """
    body, unknown = read
    gateway: GatewayState = request.app.state.gateway
    caller: Caller = request.state.caller
    most = gateway.settings.limits.max_document_chars
    if not body.items:
        raise InvalidRequest("items: at least one is needed", param="items")
    for name, text in [("query", body.query), *((f"items.{n}", one) for n, one in enumerate(body.items))]:
        if len(text) > most:
            raise PayloadTooLarge(f"{name}: {len(text)} characters are over the limit of {most}", param=name)
    found = await gateway.labels.score(
        LabelTask(
            body.query,
            body.items,
            tuple(body.label_token_ids),
            body.model,
            bool(body.item_first),
            body.add_special_tokens is not False,
            body.priority or 0,
        ),
        caller,
    )
    reply: ScoreReply = {
        "id": caller.request_id,
        "object": "list",
        "created": int(time.time()),
        "model": found.model.name,
        "data": [
            {"index": index, "object": "score", "score": score} for index, score in enumerate(found.scores)
        ],
        "usage": {
            "prompt_tokens": found.usage.prompt_tokens,
            "completion_tokens": found.usage.completion_tokens,
            "total_tokens": found.usage.total_tokens,
        },
    }
    warnings = [f"ignored, since vLLM's API does not have it: {', '.join(unknown)}"] if unknown else []
    if found.cut:
        warnings.append(f"{found.cut} prompts cut to fit the model's length")
    headers = {WARNINGS: json.dumps(warnings)} if warnings else None
    return Response(await encode_json(request, reply), media_type="application/json", headers=headers)
