"""The server's replies, as pydantic models. Fields that a newer server adds are kept, not refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from pydantic import BaseModel, ConfigDict, FiniteFloat

Document: TypeAlias = str | Mapping[str, Any]
"""A passage: its text, or an object with a ``text`` and whatever else the caller keeps beside it."""


class _Reply(BaseModel):
    # Models are built when they are first used: importing the package stays quick.
    model_config = ConfigDict(extra="allow", defer_build=True, frozen=True)


class Usage(_Reply):
    """Tokens that a request took, over all of its windows."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class Repairs(_Reply):
    """Repairs of the model's answers, counted over all windows."""

    repeated: int = 0
    missing: int = 0
    out_of_range: int = 0
    unparseable: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.repeated + self.missing + self.out_of_range + self.unparseable


class Ranks(_Reply):
    """How many ranks were made how, best ranks first: by listwise windows, by one forward pass of a window,
    by the first stage alone, and not at all, for want of ``max_prompt_tokens`` or by strategy deepen.
    """

    listwise: int
    one_pass: int = 0
    pointwise: int = 0
    unread: int = 0


class WindowTimes(_Reply):
    """When a window ran, in milliseconds after the request arrived; windows of one round, from 0, at once.
    ``documents`` are the indices of those it showed.
    """

    round: int
    start_ms: float
    end_ms: float
    queue_ms: float = 0.0
    documents: tuple[int, ...] = ()


class Explanation(_Reply):
    """How the order came about: milliseconds in the gateway, the windows, and documents that were cut."""

    total_ms: float
    windows: tuple[WindowTimes, ...] = ()
    cut_documents: tuple[int, ...] = ()


class Details(_Reply):
    """How the documents were ranked; times in milliseconds, the slowest window of each round summed.

    ``instruction`` is where the prompts have the instruction, if there is one: "template" or "query".
    ``passes`` counts the forward passes that chose passages, ``drafts`` the tokens guessed and verified in
    them, ``accepted_drafts`` those that held. ``first_stage`` is the revision that scored ``scored``
    documents one by one. If asked for, ``confidence`` is the mean of the results', and ``certified`` counts
    the first places that are certified.
    """

    strategy: str
    strategy_reason: str | None = None
    scoring: str | None = None
    ranks: Ranks | None = None
    windows: int
    rounds: int
    repairs: Repairs = Repairs.model_construct()
    score_type: str | None = None
    revision: str | None = None
    queue_ms: float = 0.0
    engine_ms: float = 0.0
    passes: int = 0
    drafts: int = 0
    accepted_drafts: int = 0
    parts: int | None = None
    first_stage: str | None = None
    scored: int | None = None
    reasoning: tuple[str, ...] = ()
    instruction: str | None = None
    explanation: Explanation | None = None
    confidence: float | None = None
    certified: int | None = None


class DocumentDetails(_Reply):
    """What is known of one document: ``first_stage_score``, from 0 to 1, where a first stage read it."""

    first_stage_score: float | None = None


class RankedDocument(_Reply):
    """One place of a ranking.

    ``index`` counts the documents of the request from 0; ``relevance_score`` falls along the ranking;
    ``document`` is the very object that was given; ``dear`` is None where nothing else is known of it. If
    asked for, ``confidence`` says how far it rightly stands before the next one, from 0 to 1, and
    ``certified`` whether the windows prove this place.
    """

    index: int
    relevance_score: FiniteFloat
    confidence: FiniteFloat | None = None
    certified: bool | None = None
    document: Any = None
    dear: DocumentDetails | None = None

    @property
    def text(self) -> str:
        """The document's text; empty where the model read other fields of it."""
        found = self.document.get("text", "") if isinstance(self.document, Mapping) else self.document
        return str(found)


class Ranking(_Reply):
    """A query's documents, best first: as many as ``top_n`` asked for.

    ``details`` is None where a server that is not this project's answered. ``request_id`` is the id that the
    request was sent with; ``warnings`` say what was cut or left out.
    """

    id: str | None = None
    model: str | None = None
    results: tuple[RankedDocument, ...]
    usage: Usage = Usage.model_construct()
    warnings: tuple[str, ...] = ()
    details: Details | None = None
    request_id: str | None = None

    @property
    def order(self) -> tuple[int, ...]:
        """Indices of the documents, best first."""
        return tuple(result.index for result in self.results)

    @property
    def documents(self) -> tuple[Any, ...]:
        """The documents as they were given, best first."""
        return tuple(result.document for result in self.results)


class Model(_Reply):
    """A model that the caller may use: the base model, or an adapter on it (``parent`` names the base)."""

    id: str
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None


class Tenant(_Reply):
    """A tenant with its limits; None where it has none."""

    id: str
    weight: float
    requests_in_flight: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    highest_priority: int | None = None
    max_prompt_tokens: int | None = None
    granted: tuple[str, ...] = ()


class Key(_Reply):
    """An API key; its text, ``key``, only in the reply that made it. Times are ISO 8601, UTC."""

    id: str
    tenant: str
    label: str = ""
    state: str
    created: str | None = None
    expires: str | None = None
    revoked: str | None = None
    key: str | None = None


class Revision(_Reply):
    """A revision of an adapter: weights and settings that never change.

    ``state`` is one of registered, staged, active, draining, retired and failed (``reason`` says why);
    ``replicas`` says of each engine replica that knows it ``held``, or what stands against it.
    """

    id: str
    name: str
    state: str
    reason: str | None = None
    template: str
    rank: int
    bytes: int
    created: str | None = None
    changed: str | None = None
    replicas: dict[str, str] = {}


class Adapter(_Reply):
    """A public name with its revisions, newest first; ``active`` is the id of the one that serves."""

    name: str
    shared: bool
    active: str | None = None
    previous: str | None = None
    created: str | None = None
    revisions: tuple[Revision, ...] = ()


class Replica(_Reply):
    """A gateway or an engine that runs, or ran a moment ago.

    ``role`` is gateway, engine or, of an engine that runs a first stage alone, first_stage. ``state`` is one
    of serving, left_out, silent, starting, ending and ended; ``load`` the requests in flight of a gateway, or
    the calls in an engine; ``current`` whether it follows the registry's latest version. Of an engine,
    ``revisions`` says of each revision ``held`` or why it could not be loaded, and ``seen_by`` what each
    gateway sees. None: not known.
    """

    id: str
    role: str
    state: str
    load: int | None = None
    queued_tokens: int | None = None
    current: bool | None = None
    revisions: dict[str, str] = {}
    seen_by: dict[str, str] = {}


class Change(_Reply):
    """An entry of the audit trail: who changed what, and when (ISO 8601, UTC)."""

    at: str
    actor: str
    action: str
    subject: str
    detail: dict[str, Any] = {}
