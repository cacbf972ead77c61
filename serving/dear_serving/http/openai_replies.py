"""Replies of OpenAI's routes. vLLM defines those of chat and completions: all of its fields pass through."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from dear_serving.http.reply import Reply
from dear_serving.openai.bodies import DOCS


class Completion(BaseModel):
    """vLLM's whole reply to a chat or completion request; it may have more fields."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"externalDocs": DOCS})

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
