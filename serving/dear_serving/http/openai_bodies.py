"""Bodies and replies of OpenAI's routes. vLLM defines them: all of its fields pass through."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from dear_serving.http.reply import Reply

_VLLM: JsonDict = {
    "url": "https://docs.vllm.ai/en/stable/serving/openai_compatible_server/",
    "description": "vLLM's OpenAI-compatible server: all fields",
}
_MODEL = "The base model's id or an adapter's name; default: the server's."
_STREAM = "Server-sent events, as OpenAI's."


class ChatBody(BaseModel):
    """A chat request. vLLM checks it and accepts more fields than these."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "externalDocs": _VLLM,
            "examples": [{"messages": [{"role": "user", "content": "Say yes."}], "max_tokens": 4}],
        },
    )

    model: str | None = Field(None, description=_MODEL)
    messages: list[dict[str, Any]]
    stream: bool | None = Field(None, description=_STREAM)
    max_tokens: int | None = None


class CompletionBody(BaseModel):
    """A completion request. vLLM checks it and accepts more fields than these."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "externalDocs": _VLLM,
            "examples": [{"prompt": "Passages about parking:", "max_tokens": 4}],
        },
    )

    model: str | None = Field(None, description=_MODEL)
    prompt: str | list[str] | list[int] | list[list[int]] = Field(description="Texts or token ids.")
    stream: bool | None = Field(None, description=_STREAM)
    max_tokens: int | None = None


class Completion(BaseModel):
    """vLLM's whole reply to a chat or completion request; it may have more fields."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"externalDocs": _VLLM})

    id: str
    object: str
    model: str = Field(description="The model as the request names it.")
    choices: list[dict[str, Any]]


class ModelCard(Reply):
    """A model that the caller may use."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["dear-serving"] = "dear-serving"
    root: str = Field(description="The revision that answers.")
    parent: str | None = Field(description="An adapter's base model.")
    max_model_len: int = Field(description="Most tokens of prompt and answer together.")


class ModelList(Reply):
    """The base model first, then adapters by name."""

    object: Literal["list"] = "list"
    data: list[ModelCard]
