"""Handles OpenAI requests: finds the model, admits the request, and lets an engine answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from dear_serving.gateway.caller import Caller
from dear_serving.gateway.catalog import ServedModel
from dear_serving.gateway.fair_queue import FairQueue
from dear_serving.gateway.tenant_engine import TenantEngine
from dear_serving.gateway.token_admission import TokenAdmission
from dear_serving.metrics import Metrics
from dear_serving.protocol import Engine, OpenAIRoute, check_openai_body, openai_tokens
from dear_serving.types import Decoding


@dataclass(frozen=True, slots=True)
class OpenAIService:
    """Answers OpenAI bodies on the engines, fairly among tenants; fields as in RerankService.

    ``decoding`` is how the engines decode windows.
    """

    engine: Engine
    queue: FairQueue
    admission: TokenAdmission
    metrics: Metrics
    decoding: Decoding

    async def answer(
        self, route: OpenAIRoute, body: dict[str, Any], caller: Caller
    ) -> tuple[ServedModel, AsyncGenerator[str | dict[str, Any], None]]:
        """The model that answers, and its reply as in Engine.openai.

        Args:
            body: the caller's body; ``model`` is a string or None.

        Raises:
            UnknownModel: the caller may use no model of that name.
            InvalidRequest: see check_openai_body.
            Overloaded, RateLimited, PayloadTooLarge: see TokenAdmission.admit.
        """
        model = caller.find(body.get("model"))
        check_openai_body(body, self.decoding)
        await self.admission.admit(caller, openai_tokens(body))
        self.metrics.count_model(caller.tenant.id, model.revision, route)
        engine = TenantEngine(self.engine, self.queue, caller.tenant)
        return model, engine.openai(route, body | {"model": model.revision}, caller.request_id)
