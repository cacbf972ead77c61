"""Timeouts and retries of a client."""

from __future__ import annotations

import random
from dataclasses import dataclass

from dear_client.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Timeout:
    """Seconds a call may take.

    Args:
        connect_s: to reach the server.
        answer_s: from the request sent to the reply's next byte; a reranking comes as one.
        total_s: for everything together: attempts, waits between them, and the reply's last byte. The
            blocking client looks at the clock between attempts and whenever a part of the body comes.

    Raises:
        ConfigurationError: a value that is not above 0.
    """

    connect_s: float = 5.0
    answer_s: float = 120.0
    total_s: float = 300.0

    def __post_init__(self) -> None:
        for name in ("connect_s", "answer_s", "total_s"):
            value = getattr(self, name)
            if not value > 0:
                raise ConfigurationError(f"timeout.{name}: {value} is not above 0")


@dataclass(frozen=True, slots=True)
class Retry:
    """Retries: of connections that fail, 429 and 503, and of a gateway that died. Nothing else.

    A reply's Retry-After is waited for, never less; else the wait doubles from ``first_s`` to ``most_s``.
    Up to a quarter is added at random, so that callers who were refused together do not come back together.
    A wait that would outlast ``Timeout.total_s`` is not begun: the error is raised at once.

    Args:
        attempts: how often a request is sent at most, the first time included; 1 tries nothing again.
        first_s: the first wait.
        most_s: the longest wait that the server did not ask for.

    Raises:
        ConfigurationError: no attempt, or a wait that is not 0 or above.
    """

    attempts: int = 4
    first_s: float = 0.25
    most_s: float = 8.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ConfigurationError(f"retry.attempts: {self.attempts} is below 1")
        for name in ("first_s", "most_s"):
            value = getattr(self, name)
            if not value >= 0:
                raise ConfigurationError(f"retry.{name}: {value} is not 0 or above")

    def wait_s(self, attempt: int, retry_after_s: float | None, chance: float | None = None) -> float:
        """Seconds to wait before the attempt after ``attempt`` (from 1).

        Args:
            retry_after_s: what the server asked for, seconds.
            chance: from 0 to 1, in place of a random number.
        """
        doubled = min(self.first_s * 2.0 ** min(attempt - 1, 60), self.most_s)
        base_s = doubled if retry_after_s is None else retry_after_s
        # The system's randomness: programs that were seeded alike must not come back together either.
        return base_s * (1 + 0.25 * (random.SystemRandom().random() if chance is None else chance))
