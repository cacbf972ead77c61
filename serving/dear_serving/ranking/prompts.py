"""Builds prompts: a query and a window of passages as token ids that fit the model."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Protocol

from dear_serving.errors import InvalidRequest, SettingsError
from dear_serving.ranking.neutralise import neutralise
from dear_serving.ranking.template import Template
from dear_serving.types import MAX_IDENTIFIERS, InstructionPlace, RankTask

# Room in the answer for text around the list, such as "### Final Reranking:".
_ANSWER_SLACK_TOKENS = 18
_MIN_PASSAGE_TOKENS = 8
# Of the query, and of an instruction that has a place of its own.
_MAX_QUERY_SHARE = 0.25
# How a template without a place for an instruction shows it.
_QUERY_WITH_INSTRUCTION = "{} (Instruction: {})"
# No tokenizer in use averages more characters per token; longer text is cut before encoding.
MAX_CHARS_PER_TOKEN = 16
# Characters that are read in one go: about 10 ms of work. A short passage costs as much as 128 characters.
_BATCH_CHARS, _PASSAGE_CHARS = 32_768, 128
# Of a long text, a beginning of this many characters a token is encoded first, since it may fill the model.
_FIRST_CHARS_PER_TOKEN = 4

_SLOT = re.compile("\ue000(q|t|[0-9]+)\ue001")
_INSTRUCTION = -1
# Punctuation and white space after a slot, and one space before it, are encoded together with the text in
# the slot. Then the pieces give the same tokens as the whole prompt. A trailing space is left to the next
# word.
_TRAIL = re.compile(r"[\s.,;:!?]*(?<! )")


class Tokenizer(Protocol):
    """The tokenizer methods needed to build a prompt. None of them adds special tokens."""

    bos_token_id: int | None
    """First token of every prompt; None if the tokenizer adds none."""

    vocabulary: int
    """Token ids are below it."""

    def render_chat(self, turns: Sequence[dict[str, str]], /) -> str:
        """Turns as one string; see ranking.template.ChatRenderer."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of untrusted text: control tokens in it are encoded as plain characters."""
        ...

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """As ``encode``, one list for each text."""
        ...

    def encode_cut(self, text: str, max_tokens: int) -> list[int]:
        """As ``encode``, cut to at most ``max_tokens`` ids at the end of a character."""
        ...

    def encode_template(self, text: str) -> list[int]:
        """Token ids of the template's own text, in which control tokens are recognised."""
        ...


@dataclass(frozen=True, slots=True)
class _Slot:
    """A placeholder in the layout: the query (passage None), the instruction (-1) or one of the passages."""

    passage: int | None
    lead: str
    trail: str

    @property
    def has_passage(self) -> bool:
        """Whether it is a passage's."""
        return self.passage is not None and self.passage != _INSTRUCTION


@dataclass(frozen=True, slots=True)
class _Layout:
    """A template for a fixed number of passages: encoded pieces with slots between them.

    ``max_new_tokens`` is reserved for the answer, including reasoning.
    """

    pieces: tuple[list[int] | _Slot, ...]
    fixed_tokens: int
    query_slots: int
    instruction_slots: int
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
        self._layout = lru_cache(maxsize=512)(self._build_layout)

    def _build_answer(self) -> AnswerTokens:
        """The answer's tokens for MAX_IDENTIFIERS identifiers; of a pointwise template, for its labels."""
        if self.template.labels is not None:
            return self._label_tokens(self.template.labels)
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

    def _label_tokens(self, labels: Sequence[str]) -> AnswerTokens:
        """The first token of each label."""
        first = [self.tokenizer.encode(label)[:1] for label in labels]
        if len({*map(tuple, first)}) < len(labels) or not all(first):
            raise SettingsError(
                f'template "{self.template.name}": the model\'s tokenizer does not tell the labels apart by '
                f"their first tokens ({', '.join(labels)})"
            )
        return AnswerTokens([], tuple(map(tuple, first)), ())

    def prepare(self, task: RankTask) -> TaskPrompts:
        """The task's prompts; texts are read when they are needed first, see TaskPrompts.read."""
        return TaskPrompts(self, task)

    def least_tokens(self, window: int, windows: int, *, reasoning: bool = False) -> int:
        """The prompt tokens of ``windows`` windows of ``window`` passages, all texts left out."""
        return windows * self.layout(min(window, MAX_IDENTIFIERS), reasoning=reasoning).fixed_tokens

    def passage_tokens(self, window: int, *, reasoning: bool = False, instructed: bool = False) -> int:
        """Tokens that each of ``window`` long passages gets, beside the longest query; with ``instructed``,
        beside the longest instruction, too.
        """
        layout = self.layout(min(window, MAX_IDENTIFIERS), reasoning=reasoning, instructed=instructed)
        room = self.max_model_len - layout.max_new_tokens - layout.fixed_tokens
        texts = 2 if instructed else 1
        return max(_MIN_PASSAGE_TOKENS, int(room * (1 - texts * _MAX_QUERY_SHARE)) // window)

    def has_place_for(self, task: RankTask) -> bool:
        """Whether the template has a place for an instruction, and the task has one."""
        is_told = bool(task.instruction and task.instruction.strip())
        return is_told and self.template.takes_instruction(reasoning=task.reasoning)

    def layout(self, count: int, *, reasoning: bool = False, instructed: bool = False) -> _Layout:
        """The template's pieces for ``count`` passages; with ``reasoning``, its reasoning form; with
        ``instructed``, an instruction in the template's place for it.
        """
        return self._layout(count, reasoning, instructed)

    def _build_layout(self, count: int, reasoning: bool, instructed: bool) -> _Layout:
        marks = [f"\ue000{rank}\ue001" for rank in range(count)]
        text = self.template.render(
            "\ue000q\ue001",
            marks,
            self.tokenizer.render_chat,
            reasoning=reasoning,
            instruction="\ue000t\ue001" if instructed else None,
        )
        pieces: list[list[int] | _Slot] = []
        static, *rest = _SLOT.split(text)  # static, slot, static, slot, ..., static
        for slot, following in zip(rest[::2], rest[1::2], strict=True):
            lead = " " if static.endswith(" ") else ""
            trail = _TRAIL.match(following)
            assert trail is not None
            pieces.append(self.tokenizer.encode_template(static.removesuffix(" ")))
            shown = {"q": None, "t": _INSTRUCTION}[slot] if slot in "qt" else int(slot)
            pieces.append(_Slot(shown, lead, trail.group()))
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
            instruction_slots=sum(isinstance(p, _Slot) and p.passage == _INSTRUCTION for p in pieces),
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
        self._passages = task.passages
        self._max_passage_tokens = task.max_passage_tokens
        self._reasoning = task.reasoning
        self._max_chars = builder.max_model_len * MAX_CHARS_PER_TOKEN
        # Skip text that can never fit, even if the template removes most of it as white space.
        self._max_read_chars = 4 * self._max_chars
        self._query = task.query.strip()[: self._max_read_chars]
        self._instruction = (task.instruction or "").strip()[: self._max_read_chars]
        self._in_template = builder.has_place_for(task)
        if self._instruction and not self._in_template:
            self._query = _QUERY_WITH_INSTRUCTION.format(self._query, self._instruction)
        self._texts: dict[int | None, str] = {}  # None: the query; -1: the instruction
        # By text, lead and trail. One token more than fits the model says that it is cut.
        self._encoded: dict[tuple[int | None, str, str], Sequence[int]] = {}
        self._lengths: dict[_Slot, int] = {}  # of all passages together
        self._trails: dict[str, list[int]] = {}
        self._cut_by_template: set[int] = set()
        self._cut_by_budget: set[int] = set()
        self._cut_to: dict[int | None, int] = {}  # of query and instruction: tokens that are left

    @property
    def instruction_place(self) -> InstructionPlace | None:
        """Where the prompts have the task's instruction; None: it has none."""
        if not self._instruction:
            return None
        return "template" if self._in_template else "query"

    @property
    def chars(self) -> int:
        """How much there is to read, in characters."""
        told = len(self._instruction) if self._in_template else 0
        return len(self._query) + told + sum(map(self._chars_of, range(len(self._passages))))

    def batches(self) -> Iterator[list[int]]:
        """All passages in batches for ``read``, each a few milliseconds of work."""
        batch: list[int] = []
        chars = 0
        for index in range(len(self._passages)):
            batch.append(index)
            chars += self._chars_of(index)
            if chars >= _BATCH_CHARS:
                yield batch
                batch, chars = [], 0
        if batch:
            yield batch

    def read(self, indices: Sequence[int], window: int) -> None:
        """Clean and encode these passages, so that prompts of ``window`` passages are cheap."""
        slot = self._first_slot(window)
        for index, tokens in zip(indices, self._tokens(slot, indices), strict=True):
            self._encoded[index, slot.lead, slot.trail] = tokens

    def window(self, indices: Sequence[int]) -> list[int]:
        """Token ids of the prompt that shows these passages in this order.

        The query may take a quarter of the available tokens, and so may an instruction for which the template
        has a place. The passages share the rest: short passages stay whole and long ones are cut to the same
        length. The template's own text is never cut.

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
        layout = self._layout_of(len(indices))
        room = self._builder.max_model_len - layout.max_new_tokens - layout.fixed_tokens
        share = int(room * _MAX_QUERY_SHARE)
        query_limit = max(1, share // max(1, layout.query_slots))
        instruction_limit = max(1, share // max(1, layout.instruction_slots))
        filled = {
            slot: self._fill(slot, query_limit if slot.passage is None else instruction_limit, slot.passage)
            for slot in layout.pieces
            if isinstance(slot, _Slot) and not slot.has_passage
        }
        room -= sum(len(filled[s]) for s in layout.pieces if isinstance(s, _Slot) and s in filled)
        slots = [s for s in layout.pieces if isinstance(s, _Slot) and s.has_passage]
        if room < sum(_MIN_PASSAGE_TOKENS + len(self._trail(slot)) for slot in slots):
            raise InvalidRequest(
                f"{len(indices)} passages in one window do not fit the model's "
                f"{self._builder.max_model_len} tokens; choose a smaller window_size",
                param="dear.window_size",
            )
        wanted = [self._length(indices[slot.passage or 0], slot) for slot in slots]
        for slot, share in zip(slots, share_budget(wanted, room), strict=True):
            index = indices[slot.passage or 0]
            filled[slot] = self._fill(slot, share, index)
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
        layout = self._layout_of(min(window, MAX_IDENTIFIERS))
        # Measured in a window's first slot, so that later windows find most passages encoded in the cache.
        slot = self._first_slot(window)
        if slot not in self._lengths:
            self._lengths[slot] = sum(self._length(index, slot) for index in range(len(self._passages)))
        around = layout.fixed_tokens + layout.query_slots * len(self._encode(_Slot(None, "", "")))
        if layout.instruction_slots:
            told = self._encode(_Slot(_INSTRUCTION, "", ""), _INSTRUCTION)
            around += layout.instruction_slots * len(told)
        whole = windows * around + shown * self._lengths[slot] // max(1, len(self._passages))
        return min(whole, windows * self._builder.max_model_len)

    @property
    def cut(self) -> tuple[int, ...]:
        """Passages that were cut so far, in the caller's order."""
        return tuple(sorted(self._cut_by_template | self._cut_by_budget))

    def warnings(self) -> tuple[str, ...]:
        """Cuts made so far, one sentence per reason."""
        for index in range(len(self._passages)):
            self._text(index)
        template = self._builder.template
        warnings = []
        for cut, tokens in self._cut_to.items():
            what = "query" if cut is None else "instruction"
            what += " with its instruction" if self.instruction_place == "query" else ""
            warnings.append(f"{what} cut to {tokens} tokens to fit the model's length")
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

    def _layout_of(self, count: int) -> _Layout:
        return self._builder.layout(count, reasoning=self._reasoning, instructed=self._in_template)

    def _first_slot(self, window: int) -> _Slot:
        pieces = self._layout_of(min(window, MAX_IDENTIFIERS)).pieces
        return next(piece for piece in pieces if isinstance(piece, _Slot) and piece.has_passage)

    def _chars_of(self, index: int) -> int:
        return min(len(self._passages[index]), self._max_read_chars) + _PASSAGE_CHARS

    def _text(self, index: int | None) -> str:
        """The query, the instruction, or a passage as the template wants it."""
        if index in self._texts:
            return self._texts[index]
        if index is None or index == _INSTRUCTION:
            text = self._query if index is None else self._instruction
            self._texts[index] = neutralise(text).strip()
        else:
            template, given = self._builder.template, self._passages[index]
            # Neutralise twice: the template may remove text between a bracket and its number.
            whole = neutralise(template.normalise(neutralise(given[: self._max_read_chars])))
            text = self._texts[index] = template.cut(whole)
            if len(text) < len(whole):
                self._cut_by_template.add(index)
            elif len(given) > self._max_read_chars:
                self._cut_by_budget.add(index)
        return self._texts[index]

    def _length(self, index: int, slot: _Slot) -> int:
        """Tokens that the passage needs in this slot, within the caller's cap and the model's length."""
        tokens = len(self._encode(slot, index))
        if self._max_passage_tokens is not None:
            tokens = min(tokens, self._max_passage_tokens + len(self._trail(slot)))
        return tokens

    def _fill(self, slot: _Slot, limit: int, index: int | None = None) -> Sequence[int]:
        """Tokens of lead, text and trail, at most ``limit``; only the text is cut."""
        text, whole = self._text(index), self._encode(slot, index)
        if len(whole) <= limit and len(text) <= self._max_chars:
            return whole
        trail = self._trail(slot)
        kept = max(0, limit - len(trail))
        if index is None or index == _INSTRUCTION:
            self._cut_to[index] = kept
        else:
            self._cut_by_budget.add(index)
        text = slot.lead + text[: min(self._max_chars, kept * MAX_CHARS_PER_TOKEN)]
        return self._builder.tokenizer.encode_cut(text, kept) + trail

    def _encode(self, slot: _Slot, index: int | None = None) -> Sequence[int]:
        """Tokens of the query or a passage in this slot, whole or as many as the model's length and one."""
        key = (index, slot.lead, slot.trail)
        if key not in self._encoded:
            (self._encoded[key],) = self._tokens(slot, [index])
        return self._encoded[key]

    def _tokens(self, slot: _Slot, indices: Sequence[int | None]) -> list[Sequence[int]]:
        """As ``_encode``, for many texts. Encoding takes much memory, so no more is encoded than fits."""
        most = self._builder.max_model_len + 1
        texts = [self._text(index) for index in indices]
        found: list[Sequence[int]] = [()] * len(texts)
        left, chars = list(range(len(texts))), _FIRST_CHARS_PER_TOKEN * most
        while left:
            pieces = [slot.lead + texts[place][:chars] + slot.trail for place in left]
            for place, tokens in zip(left, self._builder.tokenizer.encode_many(pieces), strict=True):
                found[place] = array("I", tokens[:most])  # a list takes nine times the memory
            left = [
                place
                for place in left
                if chars < min(len(texts[place]), self._max_chars) and len(found[place]) < most
            ]
            chars = min(2 * chars, self._max_chars)
        return found

    def _trail(self, slot: _Slot) -> list[int]:
        if slot.trail not in self._trails:
            self._trails[slot.trail] = self._builder.tokenizer.encode(slot.trail)
        return self._trails[slot.trail]


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
