"""A window's answer as a grammar of vLLM's structured output: masks to sample by, drafts to verify."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from vllm.v1.outputs import LogprobsLists
from vllm.v1.structured_output.backend_types import StructuredOutputBackend, StructuredOutputGrammar

from dear_serving.inside_vllm.answer import Answer


class BadStep(Exception):
    """The engine's output for a window cannot be part of its answer; the window ends with an error."""


@dataclass(frozen=True, slots=True)
class Guess:
    """A draft where the model had a choice: how many positions were ranked before, and whether it held."""

    decided: int
    held: bool


@dataclass(frozen=True, slots=True)
class Step:
    """A step's output: how many tokens belong to the answer, whether they complete it, verified guesses."""

    kept: int
    done: bool
    guesses: list[Guess]


class PermutationGrammar(StructuredOutputGrammar):  # type: ignore[misc]  # vllm is not typed here
    """A window in vLLM's scheduler: its answer so far, and what the last choice says about the next ones.

    ``passes``, ``drafted`` and ``accepted`` count its steps with a token sampled, the drafts verified in
    them, and those that held.
    """

    def __init__(self, answer: Answer, size: int) -> None:
        self.answer = answer
        self.passes = self.drafted = self.accepted = 0
        self._proposed = 0
        # Of each position: the last log probability of its first token at which identifiers differ, and of
        # the token after it, for identifiers of several tokens.
        self._likely = [(0.0, 0.0)] * size

    @classmethod
    def parse(cls, arguments: Any, vocabulary: int) -> PermutationGrammar:
        """A grammar from a request's extra_args, at its first choice; tokens are below ``vocabulary``.

        Raises:
            ValueError: they are not the identifiers, separator and number of ranks of a window.
        """
        try:
            identifiers, separator, needed = arguments
            tokens = [token for part in (*identifiers, separator) for token in part]
            if not all(type(token) is int and 0 <= token < vocabulary for token in tokens):
                raise ValueError("a window is made of tokens of the model")
            if type(needed) is not int:
                raise ValueError("the number of ranks is no whole number")
            answer = Answer(identifiers, separator, needed)
            answer.forced_tokens()
            return cls(answer, len(identifiers))
        except TypeError as error:
            raise ValueError(str(error)) from None

    # What vLLM calls.

    def accept_tokens(self, request_id: str, tokens: list[int]) -> bool:
        """Append tokens; False at the first that may not follow."""
        return all(map(self.answer.advance, tokens))

    def validate_tokens(self, tokens: list[int]) -> list[int]:
        """The tokens up to the first that may not follow; the answer stays as it is."""
        count = 0
        while count < len(tokens) and self.answer.advance(tokens[count]):
            count += 1
        self.answer.rollback(count)
        return tokens[:count]

    def rollback(self, num_tokens: int) -> None:
        """Take tokens back."""
        self.answer.rollback(num_tokens)

    def fill_bitmask(self, bitmask: torch.Tensor, batch_index: int) -> None:
        """Set the bits of the allowed tokens, and of no other. ``bitmask``: int32, rows x vocabulary / 32."""
        words: dict[int, int] = {}
        for token in self.answer.allowed():
            words[token >> 5] = words.get(token >> 5, 0) | 1 << (token & 31)
        row = bitmask.numpy()[batch_index].view(np.uint32)
        row.fill(0)
        for word, bits in words.items():
            row[word] = bits

    def is_terminated(self) -> bool:
        """Whether enough is ranked; then vLLM masks nothing."""
        return self.answer.done

    def reset(self) -> None:
        """Never called for a window: its request ends with its answer."""
        raise NotImplementedError

    # What DraftedScheduler calls.

    def draft(self, most: int, guesses: int, *, fill: bool = False) -> list[int]:
        """Tokens that probably follow: all forced ones, and of the choices the first ``guesses``.

        A guess is the best position left by the log probabilities of the last choice. At most ``most``
        tokens; all of them may follow one another, so the verifier never meets a token that is not allowed.
        With ``fill`` always ``most``: more guesses, and after the end, where vLLM masks nothing, any token.
        """
        answer, tokens = self.answer, list[int]()
        while len(tokens) < most and (allowed := answer.allowed()):
            token = allowed[0]
            if len(allowed) > 1:
                if guesses == 0 and not fill:
                    break
                guesses -= 1
                token = answer.token_of(max(answer.choices, key=self._likely.__getitem__))
            answer.advance(token)
            tokens.append(token)
        answer.rollback(len(tokens))
        self._proposed = len(tokens)
        return tokens + [0] * (most - len(tokens)) if fill else tokens

    def read_step(self, tokens: Sequence[int], drafts: Sequence[int], log_probs: LogprobsLists) -> Step:
        """Learn from a step's output. The answer stays as it is: vLLM appends the tokens later.

        Args:
            tokens: what the step gave: the drafts that held, and one token more.
            drafts: the drafts that it verified.
            log_probs: a row for each token: those of the allowed tokens, normalised over them.

        Raises:
            BadStep: a token is not allowed, or its log probability is missing or no number.
        """
        # vLLM pads the first step of a window whose prompt is cached with drafts of -1.
        drafts = [token for token in drafts[: self._proposed] if token >= 0]
        answer, guesses, kept = self.answer, list[Guess](), 0
        try:
            for token in tokens:
                if answer.done:
                    break
                if len(answer.allowed()) > 1:
                    if kept < len(drafts):
                        guesses.append(Guess(len(answer.decided), drafts[kept] == token))
                    self._learn(log_probs, kept)
                if not answer.advance(token):
                    raise BadStep(f"token {token} is not allowed here")
                kept += 1
            done = answer.done
        finally:
            answer.rollback(kept)
        self.passes += 1
        self.drafted += len(drafts)
        self.accepted += min(kept, len(tokens) - 1)
        return Step(kept, done, guesses)

    def _learn(self, log_probs: LogprobsLists, row: int) -> None:
        """Keep the log probability of each position's next token, for the guesses to come."""
        if row >= len(log_probs.logprobs) or not np.isfinite(log_probs.logprobs[row][0]):
            raise BadStep("the model gives no finite probabilities")
        tokens, values = log_probs.logprob_token_ids[row].tolist(), log_probs.logprobs[row].tolist()
        by_token = dict(zip(tokens, values, strict=True))
        choices = self.answer.choices
        first_of_identifier = len(choices) + len(self.answer.decided) == len(self._likely)
        for position in choices:
            value = by_token.get(self.answer.token_of(position), -np.inf)
            first, rest = self._likely[position]
            self._likely[position] = (value, rest) if first_of_identifier else (first, value)


class PermutationBackend(StructuredOutputBackend):  # type: ignore[misc]
    """Windows bring their grammar along; any other grammar goes to xgrammar, made when first needed."""

    _other: StructuredOutputBackend | None = None

    def compile_grammar(self, request_type: Any, grammar_spec: str, stop_token_ids: Any = None) -> Any:
        """A grammar of an OpenAI request, by xgrammar."""
        if self._other is None:
            from vllm.v1.structured_output.backend_xgrammar import XgrammarBackend

            self._other = XgrammarBackend(
                self.vllm_config, tokenizer=self.tokenizer, vocab_size=self.vocab_size
            )
        return self._other.compile_grammar(request_type, grammar_spec, stop_token_ids=stop_token_ids)

    def allocate_token_bitmask(self, max_num_seqs: int) -> torch.Tensor:
        """A bit for each token of the vocabulary, ``max_num_seqs`` rows, all set."""
        return torch.full((max_num_seqs, -(-self.vocab_size // 32)), -1, dtype=torch.int32)

    def destroy(self) -> None:
        """Free xgrammar's memory."""
        if self._other is not None:
            self._other.destroy()
