"""The bodies of OpenAI's chat and completion requests, field by field.

A field of vLLM's own request models is taken within bounds, ignored or refused; a test fails when vLLM has
one that is not here. What neither knows is ignored, as vLLM ignores it. The engine gets what is taken, and
nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic.config import JsonDict

from dear_serving.errors import InvalidRequest
from dear_serving.openai.fields import (
    MOST_COMPLETIONS,
    MOST_TOOLS,
    Choices,
    Count,
    FlatObject,
    Grammar,
    GrammarKind,
    Ignored,
    LogProbs,
    Penalty,
    Probability,
    Refused,
    Schema,
    Stop,
    TokenId,
    TokenIds,
    Word,
    Words,
)

DOCS: JsonDict = {
    "url": "https://docs.vllm.ai/en/stable/serving/openai_compatible_server/",
    "description": "vLLM's OpenAI-compatible server: what the fields mean",
}
_Text = Annotated[str, Field(min_length=1)]


def _wrong(field: str, problem: str) -> InvalidRequest:
    """Passes through pydantic, which would not name a field for a rule between fields."""
    return InvalidRequest(f"{field}: {problem}", param=field)


class _Part(BaseModel):
    """An object in a body; unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class StreamOptions(_Part):
    """What a stream tells beside its text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class JsonSchema(_Part):
    """A named JSON schema."""

    name: Word
    description: str | None = Field(None, max_length=1024)
    schema_: Schema | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(_Part):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_schema(self) -> Self:
        if self.type == "json_schema" and (self.json_schema is None or self.json_schema.schema_ is None):
            raise _wrong("response_format.json_schema", "a schema is needed")
        return self


class StructuredOutputs(_Part):
    """vLLM's own way to say the form of the answer: exactly one of these.

    A regular expression, a grammar (EBNF as xgrammar's) or a structural tag needs the server's setting
    ``limits.grammar_compile_s``.
    """

    json_: Schema | None = Field(None, alias="json")
    json_object: Literal[True] | None = None
    choice: Choices | None = None
    disable_any_whitespace: bool | None = None
    regex: Grammar | None = None
    grammar: Grammar | None = None
    structural_tag: Grammar | None = None
    whitespace_pattern: Refused = None
    disable_additional_properties: bool | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        schemas, grammars = (self.json_, self.json_object, self.choice), self.grammars
        if sum(one is not None for one in (*schemas, *grammars.values())) != 1:
            raise _wrong("structured_outputs", "one of json, json_object and choice is needed")
        if self.grammar is not None and "::=" not in self.grammar:  # vLLM would take it for Lark's
            raise _wrong("structured_outputs.grammar", "no EBNF: a rule is written root ::= ...")
        return self

    @property
    def grammars(self) -> dict[GrammarKind, str | None]:
        """What an engine has to compile, by its field."""
        return {"regex": self.regex, "grammar": self.grammar, "structural_tag": self.structural_tag}


class _Body(_Part):
    """The fields that both routes share."""

    model: str | None = Field(
        None, description="The base model's id or an adapter's name; default: the server's."
    )
    stream: bool | None = Field(None, description="Server-sent events, as OpenAI's.")
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MOST_COMPLETIONS)] | None = None
    max_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    min_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Probability | None = None
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    stop_token_ids: TokenIds | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    bad_words: Words | None = None
    allowed_token_ids: TokenIds | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    add_special_tokens: bool | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    truncation_side: Literal["left", "right"] | None = None
    return_tokens_as_token_ids: bool | None = None
    return_token_ids: bool | None = None
    echo: bool | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    priority: Annotated[int, Field(ge=0, le=999)] | None = Field(
        None, description="0 is highest. Of waiting requests, the lowest runs first."
    )

    # The server has its own, or nobody reads them.
    user: Ignored = None
    request_id: Ignored = None
    session_id: Ignored = None
    cache_salt: Ignored = None
    length_penalty: Ignored = None  # of beam search

    # Beside drafts, vLLM dies of the first and takes no notice of the other two.
    logprob_token_ids: Refused = None
    min_p: Refused = None
    logit_bias: Refused = None
    # Logits of whole prompts: memory that vLLM does not plan for.
    prompt_logprobs: Refused = None
    # Parts of the engine that no caller may reach.
    vllm_xargs: Refused = None
    kv_transfer_params: Refused = None
    ec_transfer_params: Refused = None
    routed_experts_prompt_start: Refused = None
    # What this server does not offer.
    use_beam_search: Refused = None
    repetition_detection: Refused = None
    thinking_token_budget: Refused = None
    stream_interval: Refused = None
    return_token_offsets: Refused = None

    @model_validator(mode="after")
    def _fields_fit(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise _wrong("stream_options", "goes with stream")
        if self.response_format is not None and self.structured_outputs is not None:
            raise _wrong("response_format", "does not go with structured_outputs")
        return self

    @property
    def texts(self) -> Iterator[str]:
        """Every text that goes into a prompt."""
        raise NotImplementedError

    @property
    def prompts(self) -> int:
        """How many prompts are completed."""
        return 1

    @property
    def sequences(self) -> int:
        """How many texts are written."""
        return self.prompts * (self.n or 1)

    @property
    def token_ids(self) -> int:
        """Tokens of prompts that are given as such."""
        return 0

    @property
    def turns(self) -> int:
        """Turns that a chat template puts its own tokens around."""
        return 0

    @property
    def grammar(self) -> tuple[GrammarKind, str] | None:
        """The grammar that the answer has to follow."""
        grammars = self.structured_outputs.grammars if self.structured_outputs else {}
        return next(((kind, text) for kind, text in grammars.items() if text is not None), None)

    @property
    def new_tokens(self) -> int | None:
        """Most tokens of a text; None: the caller does not say."""
        return self.max_tokens

    def for_engine(self, new_tokens: int) -> dict[str, Any]:
        """What the engine gets, with at most ``new_tokens`` a text."""
        body = self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=self._limits)
        return body | {"max_tokens": new_tokens}

    @property
    def _limits(self) -> set[str]:
        return {"max_tokens"}


class CompletionBody(_Body):
    """A completion request."""

    model_config = ConfigDict(
        json_schema_extra={
            "externalDocs": DOCS,
            "examples": [{"prompt": "Passages about parking:", "max_tokens": 4}],
        },
    )

    prompt: (
        _Text
        | Annotated[list[_Text], Field(min_length=1, max_length=MOST_COMPLETIONS)]
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[
            list[Annotated[list[TokenId], Field(min_length=1)]],
            Field(min_length=1, max_length=MOST_COMPLETIONS),
        ]
    ) = Field(description="Texts or token ids.")
    logprobs: LogProbs | None = None

    suffix: Refused = None
    prompt_embeds: Refused = None

    @model_validator(mode="after")
    def _one_request(self) -> Self:
        if self.sequences > MOST_COMPLETIONS:
            raise _wrong("n", f"{self.sequences} completions are over the limit of {MOST_COMPLETIONS}")
        if self.echo and self.logprobs is not None:
            raise _wrong("logprobs", "this server gives none for prompts; do not set echo")
        return self

    @property
    def _many(self) -> Sequence[Any]:
        """The prompts."""
        prompt = self.prompt
        one = isinstance(prompt, str) or isinstance(prompt[0], int)
        return [prompt] if one else prompt

    @property
    def texts(self) -> Iterator[str]:
        """See _Body."""
        return (one for one in self._many if isinstance(one, str))

    @property
    def prompts(self) -> int:
        """See _Body."""
        return len(self._many)

    @property
    def token_ids(self) -> int:
        """See _Body."""
        return sum(len(one) for one in self._many if not isinstance(one, str))


class TextPart(_Part):
    """A piece of a message."""

    type: Literal["text"]
    text: str


class FunctionCall(_Part):
    """A call that the model asked for."""

    name: Word
    arguments: str


class ToolCall(_Part):
    """A call that the model asked for, with its id."""

    id: Word
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(_Part):
    """A turn of a chat; text only."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: (
        Annotated[
            Annotated[str, Tag("Text")] | Annotated[list[TextPart], Tag("Parts")],
            Discriminator(lambda content: "Parts" if isinstance(content, list) else "Text"),
        ]
        | None
    ) = None
    name: Word | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MOST_TOOLS)] | None = None
    tool_call_id: Word | None = None

    @model_validator(mode="after")
    def _has_content(self) -> Self:
        if self.content is None and (self.role != "assistant" or not self.tool_calls):
            raise _wrong("messages", "a text is needed as content")
        return self

    @property
    def texts(self) -> Iterator[str]:
        """What the model reads."""
        if isinstance(self.content, str):
            yield self.content
        elif self.content:
            yield from (part.text for part in self.content)
        for call in self.tool_calls or ():
            yield from (call.function.name, call.function.arguments)


class Function(_Part):
    """A function that the model may call."""

    name: Word
    description: str | None = Field(None, max_length=4096)
    parameters: Schema | None = None
    strict: bool | None = None


class Tool(_Part):
    """A tool that the model may use."""

    type: Literal["function"] = "function"
    function: Function


class NamedFunction(_Part):
    """The name of a function."""

    name: Word


class NamedTool(_Part):
    """The tool that the model has to use."""

    type: Literal["function"] = "function"
    function: NamedFunction


class ChatBody(_Body):
    """A chat request."""

    model_config = ConfigDict(
        json_schema_extra={
            "externalDocs": DOCS,
            "examples": [{"messages": [{"role": "user", "content": "Say yes."}], "max_tokens": 4}],
        },
    )

    messages: Annotated[list[Message], Field(min_length=1, max_length=1024)]
    max_completion_tokens: Count | None = Field(None, description="Counts before max_tokens.")
    logprobs: bool | None = None
    top_logprobs: LogProbs | None = None
    tools: Annotated[list[Tool], Field(min_length=1, max_length=MOST_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    include_reasoning: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: FlatObject | None = None

    # A caller's program, or more of the template's inputs than a text.
    chat_template: Refused = None
    documents: Refused = None
    # Images and sound.
    media_io_kwargs: Refused = None
    mm_processor_kwargs: Refused = None
    return_prompt_text: Refused = None
    return_assistant_tokens_mask: Refused = None

    @model_validator(mode="after")
    def _chat_fits(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise _wrong("top_logprobs", "goes with logprobs")
        if isinstance(self.tool_choice, NamedTool) or self.tool_choice == "required":
            names = {tool.function.name for tool in self.tools or ()}
            named = self.tool_choice.function.name if isinstance(self.tool_choice, NamedTool) else None
            if not names or (named is not None and named not in names):
                raise _wrong("tool_choice", "there is no such tool in tools")
        if self.continue_final_message and self.add_generation_prompt is not False:
            raise _wrong("continue_final_message", "goes with add_generation_prompt false")
        return self

    @property
    def texts(self) -> Iterator[str]:
        """See _Body."""
        for message in self.messages:
            yield from message.texts
        yield from (tool.model_dump_json() for tool in self.tools or ())

    @property
    def turns(self) -> int:
        """See _Body."""
        return len(self.messages) + 1

    @property
    def new_tokens(self) -> int | None:
        """See _Body."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def _limits(self) -> set[str]:
        return {"max_tokens", "max_completion_tokens"}


def model_of(route: Literal["chat", "completions"]) -> type[ChatBody | CompletionBody]:
    """The body's model of a route."""
    return ChatBody if route == "chat" else CompletionBody
