"""Handles OpenAI requests: finds the model, admits the request, and lets an engine answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from dear_serving import logs
from dear_serving.errors import InvalidRequest
from dear_serving.gateway.caller import Caller
from dear_serving.gateway.catalog import ServedModel
from dear_serving.gateway.fair_queue import FairQueue
from dear_serving.gateway.fair_threads import FairThreads
from dear_serving.gateway.grammar_check import GrammarCheck
from dear_serving.gateway.tenant_engine import admit
from dear_serving.gateway.token_admission import TokenAdmission
from dear_serving.metrics import Metrics
from dear_serving.openai.bodies import ChatBody, CompletionBody
from dear_serving.protocol import Engine, OpenAIRequest
from dear_serving.ranking.prompts import MAX_CHARS_PER_TOKEN, Tokenizer

_NEW_TOKENS_OF_COMPLETIONS = 16  # as OpenAI's and vLLM's
_TOKENS_AROUND_A_TURN = 16
_INLINE_CHARS = 16_384


@dataclass(frozen=True, slots=True)
class OpenAIService:
    """Answers OpenAI bodies on the engines, fairly among tenants; fields as in RerankService.

    ``tokenizer`` is the base model's; ``threads`` use it for long texts. ``max_model_len`` is in tokens. A
    chat that does not say how much to write gets ``new_tokens`` tokens, or what the model's length leaves.
    ``grammars`` says which grammars and regular expressions an engine may get.
    """

    engine: Engine
    queue: FairQueue
    admission: TokenAdmission
    metrics: Metrics
    tokenizer: Tokenizer
    threads: FairThreads
    max_model_len: int
    new_tokens: int
    grammars: GrammarCheck

    async def answer(
        self, body: ChatBody | CompletionBody, caller: Caller
    ) -> tuple[ServedModel, AsyncGenerator[str | dict[str, Any], None]]:
        """The model that answers, and its reply as in Engine.openai.

        Raises:
            UnknownModel: the caller may use no model of that name.
            InvalidRequest: the prompts or the answer are longer than the model, or a grammar is refused.
            Overloaded, RateLimited, PayloadTooLarge: see TokenAdmission.admit.
        """
        model = caller.find(body.model)
        logs.note(model=model.name, revision=model.revision)
        prompt_tokens = await self._prompt_tokens(body, caller)
        new_tokens = self._new_tokens(body, prompt_tokens)
        request = OpenAIRequest(
            route="chat" if isinstance(body, ChatBody) else "completions",
            body=body.for_engine(new_tokens) | {"model": model.revision},
            request_id=caller.request_id,
            prompt_tokens=prompt_tokens,
            new_tokens=new_tokens,
            prompts=body.prompts,
            sequences=body.sequences,
            priority=body.priority or 0,
        )
        if (asked := body.grammar) is not None:
            await self.admission.check(caller, request.cost)
            await self.grammars.check(caller.tenant.id, *asked)
        engine = await admit(self, caller, model, request.route, request.cost)
        return model, engine.openai(request)

    async def _prompt_tokens(self, body: ChatBody | CompletionBody, caller: Caller) -> int:
        """All prompts' tokens: of completions as they are, of chats with room for the chat template's own."""
        field = "messages" if isinstance(body, ChatBody) else "prompt"
        texts = list(body.texts)
        chars, most = sum(map(len, texts)), self.max_model_len * MAX_CHARS_PER_TOKEN * body.prompts
        if chars > most or body.token_ids > self.max_model_len * body.prompts:
            raise InvalidRequest(f"{field}: longer than the model's {self.max_model_len} tokens", param=field)
        if chars > _INLINE_CHARS:
            tokens = await self.threads.run(caller.tenant.id, self._count, texts)
        else:
            tokens = self._count(texts)
        return max(1, body.token_ids + tokens + _TOKENS_AROUND_A_TURN * body.turns)

    def _count(self, texts: list[str]) -> int:
        return sum(len(self.tokenizer.encode(text)) for text in texts)

    def _new_tokens(self, body: ChatBody | CompletionBody, prompt_tokens: int) -> int:
        asked = body.new_tokens
        if asked is not None and asked > self.max_model_len:
            raise InvalidRequest(
                f"max_tokens: {asked} are over the model's {self.max_model_len} tokens", param="max_tokens"
            )
        if asked is not None:
            return asked
        if isinstance(body, CompletionBody):
            return _NEW_TOKENS_OF_COMPLETIONS
        return max(1, min(self.new_tokens, self.max_model_len - prompt_tokens))
