"""Prompt templates: the exact strings an adapter was trained with, and the rules for passages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

ChatRenderer = Callable[[Sequence[dict[str, str]]], str]
"""Renders turns (role, content) as one string with the tokenizer's chat template and generation prompt."""

_PLACEHOLDER = re.compile(r"\{(query|num|i|text|instruction)\}")


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Turn(_Model):
    """One turn of a chat prompt."""

    role: Literal["system", "user", "assistant"]
    content: str


class TextForm(_Model):
    """A prompt as plain text: opening, passages joined by the separator, closing."""

    opening: str
    passage: str
    separator: str = "\n"
    closing: str


class ChatForm(_Model):
    """A prompt as chat turns: opening, the turns of each passage, closing."""

    opening: tuple[Turn, ...]
    passage: tuple[Turn, ...]
    closing: tuple[Turn, ...]


class AnswerForm(_Model):
    """The form of a ranking: ``opening`` ends the prompt, ``separator`` goes between identifiers."""

    opening: str = "["
    separator: Annotated[str, Field(min_length=1)] = "] > ["


class ReasoningForm(_Model):
    """The end of the prompt for requests with reasoning.

    Any ``end`` string ends the reasoning; ``opening`` is appended then, before the first identifier.
    """

    closing: str | tuple[Turn, ...]
    end: Annotated[tuple[str, ...], Field(min_length=1)] = ("### Final Reranking:", "</think>")
    opening: Annotated[str, Field(min_length=1)] = "\n\n### Final Reranking: ["


class Template(_Model):
    """A prompt template, as written in a YAML file.

    Placeholders: ``{query}`` and ``{num}`` (passages in the window) in opening and closing; ``{i}`` (the
    identifier) and ``{text}`` in a passage. Other text in braces stays unchanged.

    ``{instruction}`` in opening and closing is the place of a request's instruction: ``instruction`` goes
    there, with the request's text in its own ``{instruction}``, and nothing if the request has none.

    With ``labels`` it is pointwise: it shows one passage, without an identifier, and asks for one of them,
    that of a relevant passage first. Their first tokens tell them apart. The score is the log odds of the
    first one, over ``label_scale``. No labels, ``[]``: the model scores the prompt with a head of its own.
    """

    name: str
    source: str = Field(min_length=1, description="where these exact strings come from")
    first_identifier: Literal[0, 1] = 0
    remove: tuple[str, ...] = ()
    join_whitespace: bool = False
    max_passage_chars: Annotated[int, Field(gt=0)] | None = None
    max_passage_words: Annotated[int, Field(gt=0)] | None = None
    instruction: str = "{instruction}"
    text: TextForm | None = None
    chat: ChatForm | None = None
    answer: AnswerForm = AnswerForm()
    reasoning: ReasoningForm | None = None
    labels: tuple[str, ...] | None = None
    label_scale: Annotated[float, Field(gt=0)] = 1.0

    @property
    def is_pointwise(self) -> bool:
        """Whether it shows one passage, for a score."""
        return self.labels is not None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.text is None) == (self.chat is None):
            raise ValueError("exactly one of `text` and `chat` is needed")
        opening, passage, closing = (_contents(part) for part in self._parts())
        if self.labels is None:
            if "first_identifier" not in self.model_fields_set:
                raise ValueError("`first_identifier` is needed, 0 or 1")
            if passage.count("{text}") != 1 or "{i}" not in passage:
                raise ValueError("`passage` needs {text} once and {i} at least once")
        else:
            self._check_pointwise(passage)
        if "{query}" not in opening + closing:
            raise ValueError("`opening` or `closing` needs {query}")
        if "{text}" in opening + closing:
            raise ValueError("{text} belongs into `passage` alone")
        if "{instruction}" in passage:
            raise ValueError("{instruction} belongs into `opening` and `closing` alone")
        if self.instruction.count("{instruction}") != 1:
            raise ValueError("`instruction` needs {instruction} once")
        if self.reasoning is not None and isinstance(self.reasoning.closing, str) != (self.text is not None):
            raise ValueError("`reasoning.closing` has to be text for `text` and turns for `chat`")
        return self

    def _check_pointwise(self, passage: str) -> None:
        assert self.labels is not None
        if len(self.labels) == 1 or len(set(self.labels)) < len(self.labels) or not all(self.labels):
            raise ValueError("`labels` needs two or more different texts, or none")
        if passage.count("{text}") != 1 or "{i}" in passage:
            raise ValueError("`passage` of a template with `labels` needs {text} once and no {i}")
        if self.reasoning is not None or "answer" in self.model_fields_set:
            raise ValueError("`answer` and `reasoning` do not go with `labels`")

    def takes_instruction(self, *, reasoning: bool = False) -> bool:
        """Whether the prompt has a place for an instruction, or its reasoning form has."""
        form = self.text or self.chat
        assert form is not None
        closing = self.reasoning.closing if reasoning and self.reasoning else form.closing
        return "{instruction}" in _contents(form.opening) + _contents(closing)

    def _parts(self) -> tuple[str | tuple[Turn, ...], ...]:
        form = self.text or self.chat
        assert form is not None
        return form.opening, form.passage, form.closing

    def normalise(self, passage: str) -> str:
        """Apply the template's rules that keep the content: removals and joined white space."""
        for unwanted in self.remove:
            passage = passage.replace(unwanted, "")
        if self.join_whitespace or self.max_passage_words is not None:
            passage = " ".join(passage.split())
        return passage

    def cut(self, passage: str) -> str:
        """Cut a normalised passage to the template's limits, by words and then by characters."""
        if self.max_passage_words is not None:
            passage = " ".join(passage.split(" ", self.max_passage_words)[: self.max_passage_words])
        return passage[: self.max_passage_chars]

    def render(
        self,
        query: str,
        passages: Sequence[str],
        chat: ChatRenderer,
        *,
        reasoning: bool = False,
        instruction: str | None = None,
    ) -> str:
        """The whole prompt as text. The passages are already prepared; identifiers are filled in here.

        Args:
            query: the search query.
            passages: the window's passages, in the order they are shown.
            chat: renders turns; only chat templates use it.
            reasoning: use the reasoning form, which the template must have.
            instruction: goes into the template's place for it.
        """
        told = "" if instruction is None else _fill(self.instruction, {"instruction": instruction})
        common = {"query": query, "num": str(len(passages)), "instruction": told}
        identified = [
            common | {"i": str(self.first_identifier + rank), "text": text}
            for rank, text in enumerate(passages)
        ]
        if self.text is not None:
            body = self.text.separator.join(_fill(self.text.passage, values) for values in identified)
            return _fill(self.text.opening, common) + body + _fill(self._closing(reasoning), common)
        assert self.chat is not None
        turns = _fill_turns(self.chat.opening, common)
        for values in identified:
            turns += _fill_turns(self.chat.passage, values)
        return chat(turns + _fill_turns(self._closing_turns(reasoning), common))

    def _closing(self, reasoning: bool) -> str:
        assert self.text is not None
        closing = self.reasoning.closing if reasoning and self.reasoning else self.text.closing
        assert isinstance(closing, str)
        return closing

    def _closing_turns(self, reasoning: bool) -> tuple[Turn, ...]:
        assert self.chat is not None
        closing = self.reasoning.closing if reasoning and self.reasoning else self.chat.closing
        assert not isinstance(closing, str)
        return closing


def render_without_chat_template(turns: Sequence[dict[str, str]]) -> str:
    """Turns as ``[ROLE] content`` lines, as DeAR's code does for a tokenizer without a chat template."""
    return "\n".join(f"[{turn['role'].upper()}] {turn['content']}" for turn in turns)


def _fill(text: str, values: dict[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda match: values.get(match.group(1), match.group()), text)


def _fill_turns(turns: Iterable[Turn], values: dict[str, str]) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": _fill(turn.content, values)} for turn in turns]


def _contents(part: str | tuple[Turn, ...]) -> str:
    return part if isinstance(part, str) else "\n".join(turn.content for turn in part)
