"""The bytes of a request's body: they have to arrive within a size, a time, and at a least pace."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.requests import Request

from dear_serving.errors import BodyTimeout, PayloadTooLarge

# All of a body within a minute, and no slower than a poor mobile connection, after some seconds to begin.
_ARRIVAL_S, _BEGIN_S, _LEAST_BYTES_PER_S = 60.0, 10.0, 16 * 1024


async def receive_body(
    request: Request, max_bytes: int, on_size: Callable[[int], None] | None = None
) -> bytearray:
    """The whole body.

    Args:
        on_size: called with the bytes that are there, each time more are; what it raises ends the reading.

    Raises:
        PayloadTooLarge: more than ``max_bytes``; the rest of the body is not read.
        BodyTimeout: it does not arrive in time.
        ClientDisconnect: the client left.
    """
    too_large = PayloadTooLarge(f"the body is over the limit of {max_bytes} bytes")
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared[:20]) > max_bytes:
        raise too_large
    body = bytearray()
    began_s = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout_at(began_s + min(_ARRIVAL_S, _BEGIN_S)) as limit:
            async for chunk in request.stream():
                body += chunk
                if len(body) > max_bytes:
                    raise too_large
                if on_size is not None:
                    on_size(len(body))
                in_time_s = min(_ARRIVAL_S, _BEGIN_S + len(body) / _LEAST_BYTES_PER_S)
                limit.reschedule(began_s + in_time_s)
    except TimeoutError:
        raise BodyTimeout(
            f"the body did not arrive in time: within {_ARRIVAL_S:.0f} s, and {_LEAST_BYTES_PER_S} bytes a "
            f"second after {_BEGIN_S:.0f} s"
        ) from None
    return body
