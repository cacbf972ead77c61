"""The grammar of a window: masks and drafts from one machine, and what it makes of broken steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from vllm.v1.outputs import LogprobsLists

from dear_serving.inside_vllm.answer import Answer
from dear_serving.inside_vllm.drafts import Acceptance, DraftPolicy
from dear_serving.inside_vllm.permutation_grammar import BadStep, Guess, PermutationGrammar

pytestmark = pytest.mark.integration

VOCABULARY = 100
SEPARATOR = (90, 91)
IDENTIFIERS = ((10,), (11,), (12,), (13,))
LIKELY = {10: -2.0, 11: -0.5, 12: -3.0, 13: -1.0}  # the order 1, 3, 0, 2


def grammar_of(
    identifiers: Sequence[Sequence[int]] = IDENTIFIERS, needed: int = 4, separator: Sequence[int] = SEPARATOR
) -> PermutationGrammar:
    return PermutationGrammar.parse([[list(one) for one in identifiers], list(separator), needed], VOCABULARY)


def rows(count: int, likely: dict[int, float] = LIKELY) -> LogprobsLists:
    """The same log probabilities for each of so many tokens."""
    tokens, values = np.array([list(likely)] * count), np.array([list(likely.values())] * count)
    return LogprobsLists(tokens, values, np.zeros(count))


def allowed_by(grammar: PermutationGrammar) -> list[int]:
    """The bits of the mask, in a bitmask with another request's bits around it."""
    bitmask = torch.full((3, -(-VOCABULARY // 32)), -1, dtype=torch.int32)
    grammar.fill_bitmask(bitmask, 1)
    assert (bitmask[[0, 2]] == -1).all()
    return [token for token in range(128) if int(bitmask[1][token // 32]) >> (token % 32) & 1]


def test_the_mask_allows_what_the_answer_does() -> None:
    grammar = grammar_of()
    for token, allowed in [(12, [10, 11, 12, 13]), (90, [90]), (91, [91]), (10, [10, 11, 13]), (90, [90])]:
        assert allowed_by(grammar) == allowed
        assert grammar.accept_tokens("w", [token])
    assert not grammar.accept_tokens("w", [10])
    assert not grammar.is_terminated()
    assert grammar.accept_tokens("w", [91, 11])
    assert grammar.is_terminated()


@pytest.mark.parametrize("token", [31, 32, 63, 64, 95, 96])
def test_a_mask_has_bits_at_the_edges_of_its_words(token: int) -> None:
    assert allowed_by(grammar_of(((token,), (5,)))) == sorted([token, 5])


# Drafts.


def test_forced_tokens_are_drafted_and_guesses_follow_the_last_choice() -> None:
    grammar = grammar_of()
    assert grammar.read_step([11], [], rows(1)).kept == 1
    assert grammar.accept_tokens("w", [11])
    assert grammar.draft(8, 0) == [90, 91]
    assert grammar.draft(8, 1) == [90, 91, 13, 90, 91]
    assert grammar.draft(8, 9) == [90, 91, 13, 90, 91, 10]  # the last one is implied
    assert grammar.draft(4, 9) == [90, 91, 13, 90]
    assert grammar.draft(8, 0, fill=True) == [90, 91, 13, 90, 91, 10, 0, 0]


def test_a_step_tells_which_guesses_held_and_where_the_answer_ends() -> None:
    grammar = grammar_of()
    grammar.read_step([11], [], rows(1))
    grammar.accept_tokens("w", [11])
    drafts = grammar.draft(8, 2)
    missed = grammar.read_step([90, 91, 10], drafts, rows(3))
    assert (missed.kept, missed.done, missed.guesses) == (3, False, [Guess(1, False)])
    grammar = grammar_of()
    grammar.accept_tokens("w", [11])
    grammar.draft(8, 2)
    held = grammar.read_step([*drafts, 7], drafts, rows(7))
    assert (held.kept, held.done) == (6, True)
    assert held.guesses == [Guess(1, True), Guess(2, True)]
    assert (grammar.passes, grammar.drafted, grammar.accepted) == (1, 6, 6)


def test_vllms_padding_is_no_draft() -> None:
    grammar = grammar_of()
    step = grammar.read_step([11], [-1] * 8, rows(1))
    assert (step.kept, step.guesses, grammar.drafted) == (1, [], 0)


def test_the_inner_tokens_of_identifiers_have_guesses_of_their_own() -> None:
    grammar = grammar_of(((1,), (2,), (1, 2), (1, 3)), 4)
    first, inner = {1: -0.1, 2: -3.0}, {90: -3.0, 2: -2.0, 3: -0.1}
    for token, likely in [(1, first), (3, inner), (90, {}), (91, {})]:
        grammar.read_step([token], [], rows(1, likely or {token: 0.0}))
        assert grammar.accept_tokens("w", [token])
    assert grammar.answer.decided == (3,)
    assert grammar.draft(4, 2)[:2] == [1, 2]


several = st.lists(
    st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple), min_size=2, max_size=6, unique=True
)


@given(identifiers=several, seed=st.integers(0, 1000), most=st.integers(0, 20), guesses=st.integers(0, 9))
def test_drafts_always_fit_and_leave_the_answer_as_it_was(
    identifiers: list[tuple[int, ...]], seed: int, most: int, guesses: int
) -> None:
    grammar = grammar_of(identifiers, len(identifiers))
    while not grammar.is_terminated():
        before = (grammar.answer.allowed(), grammar.answer.decided)
        for fill in (False, True):
            drafts = grammar.draft(most, guesses, fill=fill)
            fitting = grammar.validate_tokens(drafts)
            assert drafts[len(fitting) :] == [0] * (len(drafts) - len(fitting))
            assert len(drafts) <= most
        assert (grammar.answer.allowed(), grammar.answer.decided) == before
        allowed = grammar.answer.allowed()
        grammar.accept_tokens("w", [allowed[seed % len(allowed)]])


# Steps that make no sense.


@pytest.mark.parametrize(
    ("tokens", "log_probs"),
    [
        ([14], rows(1)),  # what a sampler may give for NaN
        ([11, 10], rows(2)),
        ([11], rows(1, {11: math.nan})),
        ([11], rows(1, {11: -math.inf})),
        ([11], rows(0)),
    ],
)
def test_a_step_that_makes_no_sense_is_an_error_and_leaves_the_answer(
    tokens: list[int], log_probs: LogprobsLists
) -> None:
    grammar = grammar_of()
    with pytest.raises(BadStep):
        grammar.read_step(tokens, [], log_probs)
    assert grammar.answer.allowed() == [10, 11, 12, 13]


@pytest.mark.parametrize(
    "arguments",
    [
        None,
        5,
        "abc",
        [],
        [[], [90], 1],
        [[[1], [1]], [90], 1],
        [[[1], [1, 2]], [2], 1],
        [[[1], ["2"]], [90], 1],
        [[[1], [2]], [90], "1"],
        [[[1], [2]], [90], 1.5],
        [[1, 2], [90], 1],
        {"identifiers": 1},
        [[[-1], [2]], [90], 1],
        [[[1], [VOCABULARY]], [90], 1],
        [[[True], [2]], [90], 1],
    ],
)
def test_arguments_that_are_no_window_are_a_value_error(arguments: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        PermutationGrammar.parse(arguments, VOCABULARY)


# How many guesses.


def test_guesses_follow_how_often_they_held_for_the_adapter_and_the_place() -> None:
    acceptance = Acceptance()
    for _ in range(200):
        acceptance.learn(1, Guess(2, False))
        acceptance.learn(2, Guess(2, True))
        acceptance.learn(2, Guess(4, True))
    # One now and then, to keep measuring.
    assert [acceptance.guesses(1, 2, 0.3) for _ in range(16)] == ([0] * 7 + [1]) * 2
    assert acceptance.guesses(2, 2, 0.3) > 5
    assert acceptance.guesses(3, 2, 0.3) == acceptance.guesses(3, 9, 0.3) == 3  # not measured yet
    assert acceptance.guesses(1, 4, 0.3) == 3


def test_the_policy_comes_from_vllms_additional_config() -> None:
    assert DraftPolicy.of({}) == DraftPolicy()
    assert DraftPolicy.of({"dear_drafts": {"uniform": True}}) == DraftPolicy(uniform=True)


def test_an_answer_is_read_as_it_was_masked() -> None:
    """Engine and replica walk the same machine."""
    grammar, answer = grammar_of(), Answer(IDENTIFIERS, SEPARATOR, 4)
    while not answer.done:
        assert allowed_by(grammar) == sorted(answer.allowed())
        token = answer.allowed()[-1]
        assert answer.advance(token)
        assert grammar.accept_tokens("w", [token])
    assert grammar.is_terminated()
