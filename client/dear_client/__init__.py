"""A client for dear-serving: listwise reranking, in blocking and asyncio programs.

>>> from dear_client import Client
>>> with Client("http://127.0.0.1:8000") as client:  # doctest: +SKIP
...     ranking = client.rerank("who invented the light bulb?", passages, top_n=5)
...     print(ranking.results[0].relevance_score, ranking.results[0].text)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dear_client.client import Client, RankStream
from dear_client.errors import (
    AlreadyThere,
    AnswerTimeout,
    BodyTimeout,
    CapacityReached,
    ClientError,
    ConfigurationError,
    Conflict,
    ConnectionFailed,
    ConnectionTimeout,
    DeadlineExceeded,
    EngineUnavailable,
    GatewayUnavailable,
    InternalError,
    InvalidCall,
    InvalidKey,
    InvalidRanking,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    PayloadTooLarge,
    PermissionDenied,
    RateLimited,
    RegistryUnavailable,
    ServerError,
    ShuttingDown,
    StagingFailed,
    StoreUnavailable,
    Unavailable,
    UnexpectedReply,
    UnknownModel,
    UnknownRoute,
    UnknownSubject,
    UnsupportedMediaType,
    WorkerUnavailable,
)
from dear_client.many import Progress
from dear_client.models import (
    Adapter,
    Change,
    Details,
    Document,
    Key,
    Model,
    RankedDocument,
    Ranking,
    Repairs,
    Replica,
    Revision,
    Tenant,
    Usage,
)
from dear_client.options import RerankOptions, RerankRequest
from dear_client.policy import Retry, Timeout

if TYPE_CHECKING:
    from dear_client.async_client import AsyncClient, AsyncRankStream

__all__ = [
    "Adapter",
    "AlreadyThere",
    "AnswerTimeout",
    "AsyncClient",
    "AsyncRankStream",
    "BodyTimeout",
    "CapacityReached",
    "Change",
    "Client",
    "ClientError",
    "ConfigurationError",
    "Conflict",
    "ConnectionFailed",
    "ConnectionTimeout",
    "DeadlineExceeded",
    "Details",
    "Document",
    "EngineUnavailable",
    "GatewayUnavailable",
    "InternalError",
    "InvalidCall",
    "InvalidKey",
    "InvalidRanking",
    "InvalidRequest",
    "Key",
    "MethodNotAllowed",
    "Model",
    "NotFound",
    "Overloaded",
    "PayloadTooLarge",
    "PermissionDenied",
    "Progress",
    "RankStream",
    "RankedDocument",
    "Ranking",
    "RateLimited",
    "RegistryUnavailable",
    "Repairs",
    "Replica",
    "RerankOptions",
    "RerankRequest",
    "Retry",
    "Revision",
    "ServerError",
    "ShuttingDown",
    "StagingFailed",
    "StoreUnavailable",
    "Tenant",
    "Timeout",
    "Unavailable",
    "UnexpectedReply",
    "UnknownModel",
    "UnknownRoute",
    "UnknownSubject",
    "UnsupportedMediaType",
    "Usage",
    "WorkerUnavailable",
]


def __getattr__(name: str) -> Any:
    """AsyncClient when it is first asked for: asyncio is a quarter of the time that importing all takes."""
    if name not in ("AsyncClient", "AsyncRankStream"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dear_client import async_client

    return getattr(async_client, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
