"""The messages between a gateway and an engine replica, and the interface of an engine.

During an upgrade the two may be of different releases: a field may be added if it has a default.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from dear_serving.types import Order, Repairs, Usage, message

OpenAIRoute = Literal["chat", "completions"]

_NEW_TOKEN_COST = 4

TEXT_SHARE = 0.75
"""Most of the engines' room that free texts have together: one can last long, and windows must find room."""

HELD = "held"
"""Key in a replica's routing statistics; its value lists the adapters that the replica has loaded."""


@message
@dataclass(frozen=True, slots=True)
class Backlog:
    """The ``cost`` of what waits in a gateway or is in the engines by way of it; requests carry it along."""

    gateway: str
    cost: int


@message
@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A prompt to complete with free text. ``tokens`` is at most the model's length.

    ``adapter`` is the engine-side name of a loaded adapter, None for the base model. Waiting requests
    with a lower ``priority`` run first. The first ``stop`` string that appears ends the text. Only requests
    with the same ``cache_salt`` share cached prefixes. ``trace_headers`` are the W3C headers of the span that
    the request belongs to; None: it is not traced.
    """

    token_ids: Sequence[int]
    max_tokens: int
    adapter: str | None
    request_id: str
    priority: int = 0
    stop: tuple[str, ...] = ()
    cache_salt: str | None = None
    backlog: Backlog | None = None
    trace_headers: Mapping[str, str] | None = None

    @property
    def tokens(self) -> int:
        """Most tokens the request can take in the engine: prompt and text."""
        return len(self.token_ids) + self.max_tokens

    @property
    def cost(self) -> int:
        """What the request takes of the engine; see ``text_cost``."""
        return text_cost(len(self.token_ids), self.max_tokens)


@message
@dataclass(frozen=True, slots=True)
class OpenAIRequest:
    """An OpenAI request as an engine gets it: ``body`` went through dear_serving.openai and names a revision.

    ``prompt_tokens`` is an estimate for all prompts together. Up to ``new_tokens`` tokens are written to each
    of ``sequences`` texts. ``priority`` and ``trace_headers`` are as in GenerationRequest; the body's own
    priority does not count.
    """

    route: OpenAIRoute
    body: dict[str, Any]
    request_id: str
    prompt_tokens: int
    new_tokens: int
    prompts: int = 1
    sequences: int = 1
    priority: int = 0
    cache_salt: str | None = None
    backlog: Backlog | None = None
    trace_headers: Mapping[str, str] | None = None

    @property
    def tokens(self) -> int:
        """Most tokens the request can take in the engine: each text with its prompt."""
        return self.sequences * (-(-self.prompt_tokens // self.prompts) + self.new_tokens)

    @property
    def cost(self) -> int:
        """What the request takes of the engine; see ``text_cost``."""
        return text_cost(self.prompt_tokens, self.sequences * self.new_tokens)


@message
@dataclass(frozen=True, slots=True)
class Generation:
    """The text an engine wrote for one prompt.

    ``stop`` is the stop string that ended the text; ``text`` does not include it.
    """

    text: str
    usage: Usage
    stop: str | None = None


@message
@dataclass(frozen=True, slots=True)
class PermutationRequest:
    """One window to rank. ``tokens`` is at most the model's length.

    ``token_ids`` is the prompt up to the first identifier. ``identifiers[i]`` holds the tokens of position
    i's identifier: 2 to MAX_IDENTIFIERS identifiers, all different. ``separator`` holds the tokens between
    two identifiers. The first ``needed`` positions are decided one by one, the rest are ordered by their
    first-step log probabilities; 0 orders all by these, in one forward pass. After ``deadline_s`` seconds the
    decided ranks are returned, but never before the first step is done. ``adapter``, ``priority``,
    ``cache_salt`` and ``trace_headers`` are as in GenerationRequest.
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
    backlog: Backlog | None = None
    trace_headers: Mapping[str, str] | None = None

    @property
    def tokens(self) -> int:
        """Most tokens the request can take in the engine: prompt, identifiers and separators."""
        longest = max(map(len, self.identifiers), default=1)
        return len(self.token_ids) + max(1, self.needed) * (longest + len(self.separator))

    @property
    def cost(self) -> int:
        """What the request takes of the engine: all its tokens, which are verified several at a time."""
        return self.tokens


@message
@dataclass(frozen=True, slots=True)
class DecodedWindow:
    """A window's order, and how it was decoded.

    ``order`` holds positions in the window, best first. The first ``decided`` were decoded one by one (for
    free text: all). The rest are ordered by their first-step log probabilities, ties as shown.
    ``log_probs[i]`` is the natural log of the probability that the model names position i first (by the first
    token at which the identifiers differ), among the identifiers; empty for free text. ``repairs`` counts
    the repairs of a free-text answer; ``reasoning`` is the text the model wrote before the ranking.
    """

    order: Order
    decided: int
    log_probs: tuple[float, ...]
    usage: Usage
    repairs: Repairs = field(default=Repairs())
    reasoning: str | None = None


@message
@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Prompts of which each shows one passage, to be scored in a forward pass each. ``tokens`` of the longest
    is at most the model's length.

    ``labels`` are 2 to MAX_IDENTIFIERS different tokens, one of which answers each prompt; () where the model
    has a head that scores. After ``deadline_s`` seconds the prompts that are not scored are left out, all of
    them if need be. ``adapter``, ``priority``, ``cache_salt`` and ``trace_headers`` are as in
    GenerationRequest.
    """

    prompts: Sequence[Sequence[int]]
    labels: tuple[int, ...]
    adapter: str | None
    request_id: str
    priority: int = 0
    deadline_s: float | None = None
    cache_salt: str | None = None
    backlog: Backlog | None = None
    trace_headers: Mapping[str, str] | None = None

    @property
    def tokens(self) -> int:
        """Most tokens the request can take in the engine: all prompts, and an answer each."""
        return sum(len(prompt) + 1 for prompt in self.prompts)

    @property
    def cost(self) -> int:
        """What the request takes of the engine: all its tokens."""
        return self.tokens


@message
@dataclass(frozen=True, slots=True)
class PromptScores:
    """``scores[i]`` are the natural log odds of the first label after prompt i, among the labels, or what the
    model's head gives, as log odds; None: it was not scored in time.
    """

    scores: tuple[float | None, ...]
    usage: Usage


class Engine(Protocol):
    """Decodes windows. Many calls may run at once; the engine batches them.

    Cancelling a call (or closing an iterator) aborts its work in the engine and frees its memory.
    Every method raises EngineUnavailable when no replica can take or finish the work now.
    """

    async def generate(self, request: GenerationRequest) -> Generation:
        """Write greedily until the end-of-text token, a stop string or ``max_tokens``."""
        ...

    async def permute(self, request: PermutationRequest) -> DecodedWindow:
        """Rank a window by greedy decoding in which only unused identifiers may be chosen."""
        ...

    def permute_stream(self, request: PermutationRequest) -> AsyncGenerator[DecodedWindow, None]:
        """As ``permute``, but yield ranks as they are decided.

        Yields:
            The window decided so far, each time with at least one more rank; the last one is the result.
        """
        ...

    async def score(self, request: ScoreRequest) -> PromptScores:
        """Score prompts, in as many forward passes, all at once."""
        ...

    def openai(self, request: OpenAIRequest) -> AsyncGenerator[str | dict[str, Any], None]:
        """Answer an OpenAI request as vLLM does.

        Yields:
            The reply as one dict, or with ``stream: true`` server-sent events as text, ``[DONE]`` included.

        Raises:
            InvalidRequest: vLLM refuses the body; raised before the first item.
        """
        ...

    async def check_ready(self) -> None:
        """Return when a replica answers and its engine is healthy."""
        ...

    async def metrics(self) -> str:
        """The engines' own metrics in Prometheus' text format, of all that answer in time; none: empty."""
        ...


def text_cost(prompt_tokens: int, new_tokens: int) -> int:
    """What free text takes of an engine, in tokens of a prompt; budgets, admission and turns count it.

    A token that is written takes a pass of its own, as much as several tokens of a prompt that are read
    together: 4 to 5 on a GPU with a full batch of an 8B model.
    """
    return prompt_tokens + _NEW_TOKEN_COST * new_tokens
