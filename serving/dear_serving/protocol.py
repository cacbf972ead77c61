"""The messages between a gateway and an engine replica, and what a gateway may ask of an engine."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from dear_serving.types import Order, Repairs, Usage

OpenAIRoute = Literal["chat", "completions"]

HELD = "held"
"""Key of the routing statistics under which a replica lists the adapters that it has loaded."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """Free text to write. ``tokens`` is within the model's length.

    ``adapter`` is the engine-side name of a loaded adapter, None for the base model. Of two requests
    that wait, the lower ``priority`` runs first. The first of the ``stop`` strings ends the text. Cached
    prefixes serve requests with the same ``cache_salt`` alone.
    """

    token_ids: Sequence[int]
    max_tokens: int
    adapter: str | None
    request_id: str
    priority: int = 0
    stop: tuple[str, ...] = ()
    cache_salt: str | None = None

    @property
    def tokens(self) -> int:
        """Most tokens it takes in the engine: prompt and text."""
        return len(self.token_ids) + self.max_tokens


@dataclass(frozen=True, slots=True)
class Generation:
    """What an engine wrote for one prompt.

    ``stop`` is the one of the request's stop strings that ended the text, which does not hold it.
    """

    text: str
    usage: Usage
    stop: str | None = None


@dataclass(frozen=True, slots=True)
class PermutationRequest:
    """One window to rank. ``tokens`` is within the model's length.

    ``token_ids`` end where the first identifier is due. ``identifiers`` holds the tokens of each position's
    identifier, at most MAX_IDENTIFIERS, all different; ``separator`` those between one and the next.
    ``needed`` are decided one by one, the rest stand by their first-step log probabilities; 0 asks for these
    alone, one forward pass. After ``deadline_s`` seconds, what was decided is returned as soon as the first
    step is done. ``adapter``, ``priority`` and ``cache_salt`` as in GenerationRequest.
    """

    token_ids: Sequence[int]
    identifiers: tuple[tuple[int, ...], ...]
    separator: tuple[int, ...]
    needed: int
    adapter: str | None
    request_id: str
    priority: int = 0
    deadline_s: float | None = None
    cache_salt: str | None = None

    @property
    def tokens(self) -> int:
        """Most tokens it takes in the engine: prompt, identifiers and separators."""
        longest = max(map(len, self.identifiers), default=1)
        return len(self.token_ids) + max(1, self.needed) * (longest + len(self.separator))


@dataclass(frozen=True, slots=True)
class DecodedWindow:
    """A window's order, and how it came about.

    ``order`` holds positions in the window, best first: the first ``decided`` were chosen one after the
    other (all of them in free text), the rest stand by their first-step log probabilities, equal ones as they
    were shown. ``log_probs[i]`` is the natural log of the probability that the model names position i first
    (its identifier's first token), before anything is masked; none for free text. ``repairs`` counts what had
    to be mended in free text; ``reasoning`` is what the model wrote before it ranked.
    """

    order: Order
    decided: int
    log_probs: tuple[float, ...]
    usage: Usage
    repairs: Repairs = field(default=Repairs())
    reasoning: str | None = None


class Engine(Protocol):
    """Decodes windows; many calls may run at once and are batched by the engine.

    Cancelling a call (or closing an iterator) aborts its work in the engine and frees its memory.
    Every method raises EngineUnavailable when no replica can take or finish the work now.
    """

    async def generate(self, request: GenerationRequest) -> Generation:
        """Write greedily until the end-of-text token, a stop string or ``max_tokens``."""
        ...

    async def permute(self, request: PermutationRequest) -> DecodedWindow:
        """Rank a window: the order greedy decoding gives when only identifiers left may be chosen."""
        ...

    def permute_stream(self, request: PermutationRequest) -> AsyncGenerator[DecodedWindow, None]:
        """As ``permute``, telling ranks as they are decided.

        Yields:
            The window as far as it is decided, with one rank more or several; the last is the answer.
        """
        ...

    def openai(
        self, route: OpenAIRoute, body: dict[str, Any], request_id: str
    ) -> AsyncGenerator[str | dict[str, Any], None]:
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
