"""Whether this gateway is about to end."""

from __future__ import annotations

import time

from dear_serving.errors import ShuttingDown

_RETRY_AFTER_S = 1.0


class Drain:
    """From ``begin`` on the gateway is not ready, and a little later it takes no new work.

    In between, load balancers notice: whoever they still send is served.
    """

    def __init__(self) -> None:
        self._refuses_from_s: float | None = None

    def begin(self, serve_s: float) -> None:
        """Serve new requests for so many seconds more; the first call counts."""
        if self._refuses_from_s is None:
            self._refuses_from_s = time.monotonic() + serve_s

    @property
    def has_begun(self) -> bool:
        """Whether the gateway is about to end."""
        return self._refuses_from_s is not None

    def check_ready(self) -> None:
        """Raise ShuttingDown once it began."""
        if self.has_begun:
            raise ShuttingDown("the server is shutting down", retry_after_s=_RETRY_AFTER_S)

    def check_open(self) -> None:
        """Raise ShuttingDown once new work is refused."""
        if self._refuses_from_s is not None and time.monotonic() >= self._refuses_from_s:
            self.check_ready()
