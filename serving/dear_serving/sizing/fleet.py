"""How busy an engine may be so that an objective holds, and how many engines a rate takes."""

from __future__ import annotations

import math

_HALVINGS = 50


def latency_s(alone_s: float, busy_s: float, utilisation: float, share: float) -> float:
    """Below which a ``share`` of all requests is answered: alone, and the wait for others.

    The wait is that of a queue with one server and random arrivals and services (M/M/1): the share of those
    who wait longer than t is ``u exp(-t (1 - u) / busy_s)`` (Kleinrock, Queueing Systems, volume 1).

    Args:
        alone_s: a request on an idle server.
        busy_s: what it takes of a full one.
        utilisation: in ``range [0, 1)``.
        share: such as 0.95.
    """
    if utilisation <= 1 - share:
        return alone_s
    return alone_s + busy_s / (1 - utilisation) * math.log(utilisation / (1 - share))


def utilisation_within(alone_s: float, busy_s: float, share: float, limit_s: float, most: float) -> float:
    """The highest utilisation, at most ``most``, at which the limit holds; 0 where it cannot."""
    if alone_s > limit_s or not math.isfinite(busy_s):
        return 0.0
    if latency_s(alone_s, busy_s, most, share) <= limit_s:
        return most
    low, high = 0.0, most
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if latency_s(alone_s, busy_s, middle, share) <= limit_s:
            low = middle
        else:
            high = middle
    return low


def gpus_for(rate: float, requests_s: float) -> int:
    """Engines for a rate, without a spare; ``requests_s`` of one engine, over 0."""
    return math.ceil(rate / requests_s - 1e-9)
