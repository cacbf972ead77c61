"""What the server may ask of an engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from dear_serving.types import Generation

OpenAIRoute = Literal["chat", "completions"]


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One window to decode. ``len(token_ids) + max_tokens`` is within the model's length.

    ``adapter`` is the engine-side name of a loaded adapter, None for the base model. Of two requests
    that wait, the lower ``priority`` runs first.
    """

    token_ids: Sequence[int]
    max_tokens: int
    adapter: str | None
    request_id: str
    priority: int = 0


class Engine(Protocol):
    """Decodes windows; many calls may run at once and are batched by the engine.

    Cancelling a call (or closing an iterator) aborts its work in the engine and frees its memory.
    Every method raises EngineUnavailable when no replica can take or finish the work now.
    """

    async def generate(self, request: EngineRequest) -> Generation:
        """Write greedily until the end-of-text token or ``max_tokens``."""
        ...

    def openai(
        self, route: OpenAIRoute, body: dict[str, Any], request_id: str
    ) -> AsyncIterator[str | dict[str, Any]]:
        """Answer an OpenAI request body as vLLM does.

        Yields:
            The reply as one dict, or with ``stream: true`` server-sent events as text, ``[DONE]`` included.

        Raises:
            InvalidRequest: vLLM refuses the body; before the first item.
        """
        ...

    async def check_ready(self) -> None:
        """Return when a replica answers and its engine is healthy."""
        ...

    async def metrics(self) -> str:
        """The engine's own metrics in Prometheus' text format."""
        ...
