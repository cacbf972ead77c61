"""The result of each request of a load test."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Result = Literal["ok", "refused", "unavailable", "late", "invalid", "failed"]
"""``refused`` is a 429, ``unavailable`` a 503 or no connection, ``late`` a 504 or no answer in time,
``invalid`` an order that is no permutation, ``failed`` anything else."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A 429 or 503 that was followed by another attempt.

    ``asked_s`` is the reply's Retry-After, seconds, None where it had none; ``waited_s`` how long passed
    until the next attempt; ``was_let_in`` whether that one was answered.
    """

    status: int
    asked_s: float | None
    waited_s: float
    was_let_in: bool


@dataclass(frozen=True, slots=True)
class Record:
    """One request. Times are seconds from the start of the test.

    ``intended_s`` is when the schedule wanted it sent: latency counts from there, so that a generator or a
    server that falls behind cannot hide it. Of its ``refusals`` (429 and 503) ``named`` had a Retry-After;
    ``retry_after_s`` is that of the last reply, where it was one of them. ``is_fatal``: every other request
    would fail as this one did.
    """

    intended_s: float
    sent_s: float
    done_s: float
    tenant: str
    model: str
    result: Result
    passages: int
    status: int | None = None
    message: str | None = None
    is_fatal: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0
    windows: int = 0
    repairs: int = 0
    queue_ms: float = 0.0
    engine_ms: float = 0.0
    refusals: int = 0
    named: int = 0
    retry_after_s: float | None = None
    retried: tuple[Refusal, ...] = field(default=())

    @property
    def latency_s(self) -> float:
        """From the scheduled time to the reply's last byte, retries and waits included."""
        return self.done_s - self.intended_s

    @property
    def service_s(self) -> float:
        """From the actual sending."""
        return self.done_s - self.sent_s

    @property
    def lag_s(self) -> float:
        """How far the generator was behind its schedule."""
        return self.sent_s - self.intended_s
