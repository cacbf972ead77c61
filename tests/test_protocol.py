"""The messages between gateway and replica, also those of another release."""

from __future__ import annotations

import pickle
from dataclasses import MISSING, fields, replace
from typing import Any

import pytest

from dear_serving import protocol
from dear_serving.protocol import (
    Backlog,
    DecodedWindow,
    Generation,
    GenerationRequest,
    OpenAIRequest,
    PermutationRequest,
    PromptScores,
    ScoreRequest,
)
from dear_serving.types import Repairs, Usage

USAGE = Usage(1, 2, 3.0, 4.0, 5, 6, 7)
TRACE = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
MESSAGES: list[Any] = [
    GenerationRequest([1], 2, "a@1", "r", 3, ("x",), "salt", Backlog("g", 9), TRACE),
    OpenAIRequest("chat", {"model": "m"}, "r", 1, 2, 3, 4, 5, "salt", Backlog("g", 9), TRACE),
    PermutationRequest([1], ((2,), (3,)), (4,), 1, None, "r", 5, 6.0, "salt", Backlog("g", 9), TRACE),
    ScoreRequest([[1, 2], [3]], (4, 5), "a@1", "r", 5, 6.0, "salt", Backlog("g", 9), TRACE),
    PromptScores((0.5, None), USAGE),
    Generation("x", USAGE, "y"),
    DecodedWindow((1, 0), 1, (-1.0, -2.0), USAGE, Repairs(1, 2, 3, 4), "why"),
]
every_message = pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)


def test_these_are_all_messages() -> None:
    sent = {
        name
        for name in vars(protocol)
        if name.endswith("Request") or name in ("Generation", "DecodedWindow", "PromptScores")
    }
    assert sent == {type(message).__name__ for message in MESSAGES}


@every_message
def test_a_message_arrives_as_it_was_sent(message: Any) -> None:
    assert pickle.loads(pickle.dumps(message)) == message


def arrived(message: Any, state: dict[str, Any]) -> Any:
    """What the receiver has of a sender that knows other fields."""
    found = object.__new__(type(message))
    found.__setstate__(state)
    return found


@every_message
def test_a_field_that_an_older_release_does_not_send_has_its_default(message: Any) -> None:
    for one in fields(message):
        state = {name: value for name, value in message.__getstate__().items() if name != one.name}
        if one.default is MISSING:
            with pytest.raises(ValueError, match=f"of another release has no {one.name}"):
                arrived(message, state)
        else:
            assert arrived(message, state) == replace(message, **{one.name: one.default})


@every_message
def test_a_field_of_a_newer_release_is_left_out(message: Any) -> None:
    assert arrived(message, message.__getstate__() | {"later": 1}) == message
