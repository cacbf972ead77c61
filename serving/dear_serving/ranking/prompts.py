"""Builds prompts: a query and a window of passages as token ids that fit the model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Protocol

from dear_serving.errors import InvalidRequest, SettingsError
from dear_serving.ranking.neutralise import neutralise
from dear_serving.ranking.template import Template
from dear_serving.types import MAX_IDENTIFIERS, RankTask

# Room in the answer for text around the list, such as "### Final Reranking:".
_ANSWER_SLACK_TOKENS = 18
_MIN_PASSAGE_TOKENS = 8
_MAX_QUERY_SHARE = 0.25
# No tokenizer in use averages more characters per token; longer text is cut before encoding.
_MAX_CHARS_PER_TOKEN = 16

_SLOT = re.compile("\ue000(q|[0-9]+)\ue001")
# Punctuation and white space after a slot, and one space before it, are encoded together with the text in
# the slot. Then the pieces give the same tokens as the whole prompt. A trailing space is left to the next
# word.
_TRAIL = re.compile(r"[\s.,;:!?]*(?<! )")


class Tokenizer(Protocol):
    """The tokenizer methods needed to build a prompt. None of them adds special tokens."""

    bos_token_id: int | None
    """First token of every prompt; None if the tokenizer adds none."""

    def render_chat(self, turns: Sequence[dict[str, str]], /) -> str:
        """Turns as one string; see ranking.template.ChatRenderer."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of untrusted text: control tokens in it are encoded as plain characters."""
        ...

    def encode_cut(self, text: str, max_tokens: int) -> list[int]:
        """As ``encode``, cut to at most ``max_tokens`` ids at the end of a character."""
        ...

    def encode_template(self, text: str) -> list[int]:
        """Token ids of the template's own text, in which control tokens are recognised."""
        ...


@dataclass(frozen=True, slots=True)
class _Slot:
    """A placeholder in the layout: the query (passage None) or one passage of the window."""

    passage: int | None
    lead: str
    trail: str


@dataclass(frozen=True, slots=True)
class _Layout:
    """A template for a fixed number of passages: encoded pieces with slots between them.

    ``max_new_tokens`` is reserved for the answer, including reasoning.
    """

    pieces: tuple[list[int] | _Slot, ...]
    fixed_tokens: int
    query_slots: int
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class AnswerTokens:
    """The tokens of a ranking: ``opening``, an identifier, ``separator``, the next identifier and so on.

    ``identifiers[i]`` belongs to position i in the window.
    """

    opening: list[int]
    identifiers: tuple[tuple[int, ...], ...]
    separator: tuple[int, ...]


class PromptBuilder:
    """Builds the prompts of one template for one tokenizer and model.

    Args:
        template: the prompt template.
        tokenizer: the base model's tokenizer.
        max_model_len: maximum tokens of prompt plus answer.
        max_reasoning_tokens: tokens reserved for reasoning, in requests with reasoning.

    Raises:
        SettingsError: the tokenizer merges identifiers with separators, or a separator can be read as a
            part of an identifier, so a ranking cannot be decoded identifier by identifier.
    """

    def __init__(
        self,
        template: Template,
        tokenizer: Tokenizer,
        max_model_len: int,
        max_reasoning_tokens: int = 512,
    ) -> None:
        self.template = template
        self.tokenizer = tokenizer
        self.max_model_len = max_model_len
        self.max_reasoning_tokens = max_reasoning_tokens
        self.answer = self._build_answer()
        self._layout = lru_cache(maxsize=256)(self._build_layout)

    def _build_answer(self) -> AnswerTokens:
        """The answer's tokens for MAX_IDENTIFIERS identifiers."""
        form, first = self.template.answer, self.template.first_identifier
        names = [str(first + rank) for rank in range(MAX_IDENTIFIERS)]
        opening, separator = self.tokenizer.encode(form.opening), self.tokenizer.encode(form.separator)
        identifiers = tuple(tuple(self.tokenizer.encode(name)) for name in names)
        parts = opening + [
            token
            for rank, identifier in enumerate(identifiers)
            for token in (*(separator if rank else ()), *identifier)
        ]
        whole = self.tokenizer.encode(form.opening + form.separator.join(names))
        if parts != whole or len(set(identifiers)) < len(identifiers):
            raise SettingsError(
                f'template "{self.template.name}": the model\'s tokenizer does not keep identifiers apart in '
                f"{form.opening}{names[0]}{form.separator}{names[1]}, so rankings cannot be decoded"
            )
        # An identifier ends where the separator begins. If that is how a longer one goes on, e.g. with
        # identifiers "1" and "1-2" and the separator "-", an answer could be read in two ways.
        ended = sorted((*identifier, separator[0]) for identifier in identifiers)
        if any(after[: len(before)] == before for before, after in pairwise(ended)):
            raise SettingsError(
                f'template "{self.template.name}": answer.separator begins as an identifier goes on, '
                "so rankings cannot be decoded"
            )
        return AnswerTokens(opening, identifiers, tuple(separator))

    def prepare(self, task: RankTask) -> TaskPrompts:
        """Prepare a task's query and passages once, so that each window's prompt is cheap."""
        return TaskPrompts(self, task)

    def least_tokens(self, window: int, windows: int, *, reasoning: bool = False) -> int:
        """The prompt tokens of ``windows`` windows of ``window`` passages, all texts left out."""
        return windows * self.layout(min(window, MAX_IDENTIFIERS), reasoning=reasoning).fixed_tokens

    def layout(self, count: int, *, reasoning: bool = False) -> _Layout:
        """The template's pieces for ``count`` passages; with ``reasoning``, its reasoning form."""
        return self._layout(count, reasoning)

    def _build_layout(self, count: int, reasoning: bool) -> _Layout:
        marks = [f"\ue000{rank}\ue001" for rank in range(count)]
        text = self.template.render("\ue000q\ue001", marks, self.tokenizer.render_chat, reasoning=reasoning)
        pieces: list[list[int] | _Slot] = []
        static, *rest = _SLOT.split(text)  # static, slot, static, slot, ..., static
        for slot, following in zip(rest[::2], rest[1::2], strict=True):
            lead = " " if static.endswith(" ") else ""
            trail = _TRAIL.match(following)
            assert trail is not None
            pieces.append(self.tokenizer.encode_template(static.removesuffix(" ")))
            pieces.append(_Slot(None if slot == "q" else int(slot), lead, trail.group()))
            static = following[trail.end() :]
        pieces.append(self.tokenizer.encode_template(static))
        bos = self.tokenizer.bos_token_id
        first = pieces[0]
        if bos is not None and isinstance(first, list) and first[:1] != [bos]:
            pieces.insert(0, [bos])
        answer_tokens = len(self.answer.opening) + sum(map(len, self.answer.identifiers[:count]))
        answer_tokens += (count - 1) * len(self.answer.separator) + _ANSWER_SLACK_TOKENS
        if reasoning and self.template.reasoning is not None:
            ends = (None, *self.template.reasoning.end)
            answer_tokens += self.max_reasoning_tokens
            answer_tokens += max(len(self.after_reasoning("", stop)) for stop in ends)
        return _Layout(
            pieces=tuple(pieces),
            fixed_tokens=sum(len(piece) for piece in pieces if isinstance(piece, list)),
            query_slots=sum(isinstance(p, _Slot) and p.passage is None for p in pieces),
            max_new_tokens=answer_tokens,
        )

    def after_reasoning(self, text: str, stop: str | None) -> list[int]:
        """The tokens from the start of the reasoning up to the first identifier.

        Args:
            text: the model's reasoning, without the end string.
            stop: the end string that ended it; None if it ended without one or ran out of tokens.
        """
        form = self.template.reasoning
        assert form is not None
        kept = "" if stop is None or stop in form.opening else stop
        # Encoding may need more tokens than the model wrote, for example for a control token's name.
        written = self.tokenizer.encode_cut(text.rstrip(), self.max_reasoning_tokens)
        return written + self.tokenizer.encode_template(kept + form.opening)


class TaskPrompts:
    """The prompts of one task. Caches encoded passages between windows and records cuts."""

    def __init__(self, builder: PromptBuilder, task: RankTask) -> None:
        self._builder = builder
        self._max_passage_tokens = task.max_passage_tokens
        self._reasoning = task.reasoning
        self._query = neutralise(task.query).strip()
        self._max_chars = builder.max_model_len * _MAX_CHARS_PER_TOKEN
        # Skip text that can never fit, even if the template removes most of it as white space.
        max_read_chars = 4 * self._max_chars
        # Neutralise twice: the template may remove text between a bracket and its number.
        whole = [
            neutralise(builder.template.normalise(neutralise(text[:max_read_chars])))
            for text in task.passages
        ]
        self._texts = [builder.template.cut(text) for text in whole]
        self._cut_by_template = {
            index
            for index, (text, full) in enumerate(zip(self._texts, whole, strict=True))
            if len(text) < len(full)
        }
        self._encoded: dict[str, list[int]] = {}
        self._cut_by_budget = {
            index for index, text in enumerate(task.passages) if len(text) > max_read_chars
        } - self._cut_by_template
        self._query_tokens_cut_to: int | None = None

    def window(self, indices: Sequence[int]) -> list[int]:
        """Token ids of the prompt that shows these passages in this order.

        The query may take a quarter of the available tokens. The passages share the rest: short passages
        stay whole and long ones are cut to the same length. The instruction is never cut.

        Args:
            indices: passages of the task, 0-based.

        Returns:
            Token ids, at most the model's length minus the layout's ``max_new_tokens``.

        Raises:
            InvalidRequest: too many passages for one window, or for the model's length even when cut.
        """
        if len(indices) > MAX_IDENTIFIERS:
            raise InvalidRequest(
                f"{len(indices)} passages in one window are over the limit of {MAX_IDENTIFIERS}; "
                "choose another strategy",
                param="dear.strategy",
            )
        layout = self._builder.layout(len(indices), reasoning=self._reasoning)
        room = self._builder.max_model_len - layout.max_new_tokens - layout.fixed_tokens
        query_limit = max(1, int(room * _MAX_QUERY_SHARE) // max(1, layout.query_slots))
        filled = {
            slot: self._fill(self._query, slot, query_limit)
            for slot in layout.pieces
            if isinstance(slot, _Slot) and slot.passage is None
        }
        room -= sum(len(filled[s]) for s in layout.pieces if isinstance(s, _Slot) and s in filled)
        slots = [s for s in layout.pieces if isinstance(s, _Slot) and s.passage is not None]
        if room < sum(_MIN_PASSAGE_TOKENS + len(self._encode(slot.trail)) for slot in slots):
            raise InvalidRequest(
                f"{len(indices)} passages in one window do not fit the model's "
                f"{self._builder.max_model_len} tokens; choose a smaller window_size",
                param="dear.window_size",
            )
        wanted = [self._length(indices[slot.passage or 0], slot) for slot in slots]
        for slot, share in zip(slots, share_budget(wanted, room), strict=True):
            index = indices[slot.passage or 0]
            filled[slot] = self._fill(self._texts[index], slot, share, index)
        token_ids: list[int] = []
        for piece in layout.pieces:
            token_ids += filled[piece] if isinstance(piece, _Slot) else piece
        return token_ids

    def expected_tokens(self, window: int, windows: int, shown: int) -> int:
        """Estimate the prompt tokens of all windows of a strategy.

        Args:
            window: passages per window.
            windows: number of windows.
            shown: passages shown in all windows together; each counts with the mean length.
        """
        layout = self._builder.layout(min(window, MAX_IDENTIFIERS), reasoning=self._reasoning)
        slots = [piece for piece in layout.pieces if isinstance(piece, _Slot) and piece.passage is not None]
        # Measured in a window's first slot, so that later windows find most passages encoded in the cache.
        lengths = sum(self._length(index, slots[0]) for index in range(len(self._texts)))
        around = layout.fixed_tokens + layout.query_slots * len(self._encode(self._query))
        whole = windows * around + shown * lengths // max(1, len(self._texts))
        return min(whole, windows * self._builder.max_model_len)

    def warnings(self) -> tuple[str, ...]:
        """Cuts made so far, one sentence per reason."""
        template = self._builder.template
        warnings = []
        if self._query_tokens_cut_to is not None:
            warnings.append(f"query cut to {self._query_tokens_cut_to} tokens to fit the model's length")
        if self._cut_by_template:
            rule = (
                f"{template.max_passage_words} words"
                if template.max_passage_words
                else f"{template.max_passage_chars} characters"
            )
            warnings.append(f'{_passages(self._cut_by_template)} cut to {rule} by template "{template.name}"')
        if self._cut_by_budget:
            limit = self._max_passage_tokens
            asked = f" or to max_tokens_per_doc {limit}" if limit is not None else ""
            warnings.append(
                f"{_passages(self._cut_by_budget)} cut to fit the model's "
                f"{self._builder.max_model_len} tokens{asked}"
            )
        return tuple(warnings)

    def _length(self, index: int, slot: _Slot) -> int:
        """Tokens that the passage needs in this slot, within the caller's cap."""
        tokens = len(self._encode(slot.lead + self._texts[index][: self._max_chars] + slot.trail))
        if self._max_passage_tokens is not None:
            tokens = min(tokens, self._max_passage_tokens + len(self._encode(slot.trail)))
        return tokens

    def _fill(self, text: str, slot: _Slot, limit: int, index: int | None = None) -> list[int]:
        """Tokens of lead, text and trail, at most ``limit``; only the text is cut."""
        whole = self._encode(slot.lead + text[: self._max_chars] + slot.trail)
        if len(whole) <= limit and len(text) <= self._max_chars:
            return whole
        trail = self._encode(slot.trail)
        kept = max(0, limit - len(trail))
        if index is None:
            self._query_tokens_cut_to = kept
        else:
            self._cut_by_budget.add(index)
        return self._builder.tokenizer.encode_cut(slot.lead + text[: self._max_chars], kept) + trail

    def _encode(self, text: str) -> list[int]:
        if text not in self._encoded:
            self._encoded[text] = self._builder.tokenizer.encode(text)
        return self._encoded[text]


def share_budget(wanted: Sequence[int], budget: int) -> list[int]:
    """Share ``budget`` tokens by max-min fairness: small needs are met, the others get equal shares.

    Args:
        wanted: tokens that each passage needs.
        budget: tokens available, >= 0.

    Returns:
        One share per passage: ``share <= wanted`` and ``sum(shares) <= budget``; equal to ``wanted`` if all
        fit.
    """
    shares = [0] * len(wanted)
    left = budget
    for rank, index in enumerate(sorted(range(len(wanted)), key=wanted.__getitem__)):
        shares[index] = min(wanted[index], left // (len(wanted) - rank))
        left -= shares[index]
    return shares


def _passages(indices: set[int]) -> str:
    return "1 passage" if len(indices) == 1 else f"{len(indices)} passages"
