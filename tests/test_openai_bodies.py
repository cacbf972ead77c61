"""What an OpenAI body may hold: every field of vLLM's, and the bounds of each."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from dear_serving.errors import InvalidRequest
from dear_serving.openai.bodies import ChatBody, CompletionBody
from dear_serving.openai.fields import MOST_COMPLETIONS, MOST_GRAMMAR_CHARS

pytestmark = pytest.mark.attack

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
PROMPT: dict[str, Any] = {"prompt": "hi"}


@pytest.mark.integration
def test_every_field_of_vllms_is_taken_ignored_or_refused() -> None:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest

    assert set(ChatCompletionRequest.model_fields) - set(ChatBody.model_fields) == set()
    assert set(CompletionRequest.model_fields) - set(CompletionBody.model_fields) == set()


REFUSED_BY_BOTH = {
    "logprob_token_ids": [1, 2],
    "min_p": 0.05,
    "logit_bias": {"5": 100},
    "prompt_logprobs": 0.5,
    "vllm_xargs": {"dear_window": 1},
    "kv_transfer_params": {"do_remote_decode": True},
    "ec_transfer_params": {"x": 1},
    "use_beam_search": True,
    "repetition_detection": {"max_pattern_size": 2},
    "thinking_token_budget": 5,
    "stream_interval": 2,
    "routed_experts_prompt_start": 3,
    "return_token_offsets": True,
}
REFUSED = (
    [(ChatBody, CHAT, name, value) for name, value in REFUSED_BY_BOTH.items()]
    + [(CompletionBody, PROMPT, name, value) for name, value in REFUSED_BY_BOTH.items()]
    + [
        (ChatBody, CHAT, "chat_template", "{{ messages }}"),
        (ChatBody, CHAT, "documents", [{"title": "a"}]),
        (ChatBody, CHAT, "media_io_kwargs", {"video": {"num_frames": 1}}),
        (ChatBody, CHAT, "mm_processor_kwargs", {"a": 1}),
        (CompletionBody, PROMPT, "prompt_embeds", "aGk="),
        (CompletionBody, PROMPT, "suffix", "end"),
    ]
)


@pytest.mark.parametrize(("model", "body", "name", "value"), REFUSED)
def test_what_is_refused_is_named(model: Any, body: dict[str, Any], name: str, value: object) -> None:
    with pytest.raises(ValidationError) as raised:
        model.model_validate(body | {name: value})
    assert raised.value.errors()[0]["loc"] == (name,)
    unused: Any
    for unused in (None, False, 0, "", [], {}):
        assert name not in model.model_validate(body | {name: unused}).for_engine(1)


DEEP: dict[str, Any] = {"type": "object"}
for _ in range(900):
    DEEP = {"type": "object", "properties": {"a": DEEP}}
WRONG = [
    (ChatBody, {}),
    (ChatBody, {"messages": None}),
    (ChatBody, {"messages": []}),
    (ChatBody, {"messages": [{"role": "user"}]}),
    (ChatBody, {"messages": [{"role": "robot", "content": "hi"}]}),
    (ChatBody, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]}),
    (ChatBody, {"messages": [{"role": "assistant", "tool_calls": []}]}),
    (ChatBody, CHAT | {"tools": []}),
    (ChatBody, CHAT | {"tool_choice": "required"}),
    (ChatBody, CHAT | {"tool_choice": {"type": "function", "function": {"name": "x"}}}),
    (ChatBody, CHAT | {"top_logprobs": 2}),
    (ChatBody, CHAT | {"logprobs": True, "top_logprobs": 21}),
    (ChatBody, CHAT | {"stream_options": {"include_usage": True}}),
    (ChatBody, CHAT | {"max_completion_tokens": 0}),
    (ChatBody, CHAT | {"chat_template_kwargs": {"a": {"b": 1}}}),
    (ChatBody, CHAT | {"chat_template_kwargs": {"a": "x" * 20_000}}),
    (ChatBody, CHAT | {"response_format": {"type": "json_schema"}}),
    (ChatBody, CHAT | {"response_format": {"type": "structural_tag", "format": {}}}),
    (CompletionBody, {}),
    (CompletionBody, {"prompt": ""}),
    (CompletionBody, {"prompt": []}),
    (CompletionBody, {"prompt": [[]]}),
    (CompletionBody, {"prompt": [-1]}),
    (CompletionBody, {"prompt": [2**40]}),
    (CompletionBody, {"prompt": ["a"] * (MOST_COMPLETIONS + 1)}),
    (CompletionBody, {"prompt": ["a"] * MOST_COMPLETIONS, "n": 2}),
    (CompletionBody, PROMPT | {"logprobs": -2}),
    (CompletionBody, PROMPT | {"logprobs": 1, "echo": True}),
    (CompletionBody, PROMPT | {"n": 2000}),
    (CompletionBody, PROMPT | {"n": "50"}),
    (CompletionBody, PROMPT | {"top_k": 2**70}),
    (CompletionBody, PROMPT | {"seed": 2**63}),
    (CompletionBody, PROMPT | {"max_tokens": 2**31}),
    (CompletionBody, PROMPT | {"temperature": 1e999}),
    (CompletionBody, PROMPT | {"priority": -(2**63)}),
    (CompletionBody, PROMPT | {"priority": 1000}),
    (CompletionBody, PROMPT | {"stop": ["a"] * 5}),
    (CompletionBody, PROMPT | {"stop": ""}),
    (CompletionBody, PROMPT | {"bad_words": ["a"] * 33}),
    (CompletionBody, PROMPT | {"bad_words": ["a" * 1000]}),
    (CompletionBody, PROMPT | {"allowed_token_ids": list(range(2000))}),
    (CompletionBody, PROMPT | {"structured_outputs": {}}),
    (CompletionBody, PROMPT | {"structured_outputs": {"grammar": "start: /a/"}}),
    (CompletionBody, PROMPT | {"structured_outputs": {"regex": "a" * (MOST_GRAMMAR_CHARS + 1)}}),
    (CompletionBody, PROMPT | {"structured_outputs": {"regex": "a+", "choice": ["a"]}}),
    (CompletionBody, PROMPT | {"structured_outputs": {"structural_tag": ""}}),
    (CompletionBody, PROMPT | {"structured_outputs": {"choice": []}}),
    (CompletionBody, PROMPT | {"structured_outputs": {"choice": ["a"] * 257}}),
    (CompletionBody, PROMPT | {"structured_outputs": {"json": DEEP}}),
    (CompletionBody, PROMPT | {"structured_outputs": {"json": {"enum": ["a"] * 5000}}}),
    (CompletionBody, PROMPT | {"structured_outputs": {"json": {"type": "string", "pattern": "(a+)+"}}}),
    (CompletionBody, PROMPT | {"structured_outputs": {"json": {"type": "string", "maxLength": 10**6}}}),
    (
        CompletionBody,
        PROMPT
        | {
            "response_format": {"type": "json_object"},
            "structured_outputs": {"json": {"type": "object"}},
        },
    ),
]


@pytest.mark.parametrize(("model", "body"), WRONG)
def test_what_is_out_of_bounds_is_an_error(model: Any, body: dict[str, Any]) -> None:
    with pytest.raises((ValidationError, InvalidRequest)):
        model.model_validate(body)


def test_the_engine_gets_what_is_known_and_nothing_else() -> None:
    body = ChatBody.model_validate(
        CHAT
        | {"model": "legal", "n": "2", "max_tokens": 3000, "max_completion_tokens": 1, "top_k": 5}
        | {"user": "me", "cache_salt": "mine", "request_id": "1", "session_id": "s", "store": True}
        | {"metadata": {"a": "b"}, "extra": 1, "prompt": "decoy"}
    )
    assert body.for_engine(7) == CHAT | {"model": "legal", "n": 2, "top_k": 5, "max_tokens": 7}
    assert body.new_tokens == 1


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"pattern": {"type": "string"}, "a": {"type": "integer"}}},
        {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 20},
        {"$defs": {"a": {"type": "string"}}, "anyOf": [{"$ref": "#/$defs/a"}]},
    ],
)
def test_a_usual_schema_reaches_the_engine_as_it_is(schema: dict[str, Any]) -> None:
    chat = CHAT | {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}}
    assert ChatBody.model_validate(chat).for_engine(1)["response_format"] == chat["response_format"]
    asked = PROMPT | {"structured_outputs": {"json": schema}}
    assert CompletionBody.model_validate(asked).for_engine(1)["structured_outputs"] == {"json": schema}


@pytest.mark.parametrize(
    ("prompt", "prompts", "token_ids", "texts"),
    [
        ("ab", 1, 0, ["ab"]),
        (["ab", "c"], 2, 0, ["ab", "c"]),
        ([1, 2, 3], 1, 3, []),
        ([[1], [2, 3]], 2, 3, []),
    ],
)
def test_prompts_are_counted_in_every_form(
    prompt: Any, prompts: int, token_ids: int, texts: list[str]
) -> None:
    body = CompletionBody.model_validate({"prompt": prompt, "n": 2})
    assert (body.prompts, body.sequences, body.token_ids) == (prompts, 2 * prompts, token_ids)
    assert list(body.texts) == texts


def test_a_chats_texts_are_its_messages_calls_and_tools() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "find", "arguments": "{}"}}
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "found"},
    ]
    tools = [{"type": "function", "function": {"name": "find"}}]
    body = ChatBody.model_validate({"messages": messages, "tools": tools})
    assert list(body.texts)[:-1] == ["be brief", "a", "b", "find", "{}", "found"]
    assert body.for_engine(1)["messages"] == [
        {key: value for key, value in message.items() if value is not None} for message in messages
    ]
