"""OpenAI requests as vLLM's own, and what vLLM says against them as our errors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError
from ray.serve.llm.openai_api_models import ChatCompletionRequest, CompletionRequest

from dear_serving.errors import EngineUnavailable, InvalidRequest, RequestError, UnknownModel
from dear_serving.openai.bodies import model_of
from dear_serving.protocol import OpenAIRequest
from dear_serving.settings import describe

_LONGEST_MESSAGE = 500
_RETRY_S = 10.0


def vllm_request(request: OpenAIRequest) -> ChatCompletionRequest | CompletionRequest:
    """The request as vLLM's, checked once more by our own rules."""
    try:
        body = model_of(request.route).model_validate(request.body)
        own = {"request_id": request.request_id, "priority": request.priority}
        fields = body.for_engine(request.new_tokens) | own
        if request.cache_salt is not None:
            fields["cache_salt"] = request.cache_salt
        kind = ChatCompletionRequest if request.route == "chat" else CompletionRequest
        with vllm_errors():
            return kind.model_validate(fields)
    except ValidationError as error:
        field = ".".join(str(step) for step in error.errors()[0]["loc"]) or None
        raise InvalidRequest(_cut(describe(error)), param=field) from None


@contextlib.contextmanager
def vllm_errors() -> Iterator[None]:
    """What vLLM raises for a body that it cannot take, as InvalidRequest."""
    from vllm.exceptions import VLLMClientError

    try:
        yield
    except ValidationError:
        raise
    except (VLLMClientError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise InvalidRequest(_cut(str(error))) from None


def _cut(message: str) -> str:
    """vLLM's words, which may repeat all of a caller's text."""
    line = " ".join(message[: 4 * _LONGEST_MESSAGE].split())
    return line if len(line) <= _LONGEST_MESSAGE else f"{line[:_LONGEST_MESSAGE]}..."


def from_vllm(error: dict[str, Any]) -> RequestError:
    """vLLM's error object as our error; messages of server errors are not passed on to callers."""
    code, message = int(error.get("code") or 500), _cut(str(error.get("message") or ""))
    if code == 404:
        return UnknownModel(message, param=error.get("param"))
    if code < 500:
        return InvalidRequest(message, param=error.get("param"))
    return EngineUnavailable("the engine could not answer", retry_after_s=_RETRY_S, failed=True)
