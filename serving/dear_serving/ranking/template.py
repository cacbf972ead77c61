"""What a prompt template is: the exact strings an adapter was trained with, and its rules for passages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

ChatRenderer = Callable[[Sequence[dict[str, str]]], str]
"""Turns (role, content) into one string with the tokenizer's chat template, generation prompt added."""

_PLACEHOLDER = re.compile(r"\{(query|num|i|text)\}")


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Turn(_Model):
    """One turn of a chat prompt."""

    role: Literal["system", "user", "assistant"]
    content: str


class TextForm(_Model):
    """A prompt as one running text: opening, passages joined by the separator, closing."""

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
    """How a ranking is written: ``opening`` is appended to the prompt, ``separator`` stands between two
    identifiers."""

    opening: str = "["
    separator: Annotated[str, Field(min_length=1)] = "] > ["


class ReasoningForm(_Model):
    """The prompt's closing where the model is to reason first.

    One of the ``end`` strings ends the reasoning; ``opening`` leads from there to the first identifier.
    """

    closing: str | tuple[Turn, ...]
    end: Annotated[tuple[str, ...], Field(min_length=1)] = ("### Final Reranking:", "</think>")
    opening: Annotated[str, Field(min_length=1)] = "\n\n### Final Reranking: ["


class Template(_Model):
    """A prompt template, as a YAML file holds it.

    Placeholders: ``{query}`` and ``{num}`` (passages in the window) in opening and closing, ``{i}`` (the
    identifier) and ``{text}`` in a passage. Nothing else in braces is touched.
    """

    name: str
    source: str = Field(min_length=1, description="where these exact strings come from")
    first_identifier: Literal[0, 1]
    remove: tuple[str, ...] = ()
    join_whitespace: bool = False
    max_passage_chars: Annotated[int, Field(gt=0)] | None = None
    max_passage_words: Annotated[int, Field(gt=0)] | None = None
    text: TextForm | None = None
    chat: ChatForm | None = None
    answer: AnswerForm = AnswerForm()
    reasoning: ReasoningForm | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.text is None) == (self.chat is None):
            raise ValueError("exactly one of `text` and `chat` is needed")
        opening, passage, closing = (_contents(part) for part in self._parts())
        if passage.count("{text}") != 1 or "{i}" not in passage:
            raise ValueError("`passage` needs {text} once and {i} at least once")
        if "{query}" not in opening + closing:
            raise ValueError("`opening` or `closing` needs {query}")
        if "{text}" in opening + closing:
            raise ValueError("{text} belongs into `passage` alone")
        if self.reasoning is not None and isinstance(self.reasoning.closing, str) != (self.text is not None):
            raise ValueError("`reasoning.closing` has to be text for `text` and turns for `chat`")
        return self

    def _parts(self) -> tuple[str | tuple[Turn, ...], ...]:
        form = self.text or self.chat
        assert form is not None
        return form.opening, form.passage, form.closing

    def normalise(self, passage: str) -> str:
        """The template's rules that do not shorten what is said: removals and joined white space."""
        for unwanted in self.remove:
            passage = passage.replace(unwanted, "")
        if self.join_whitespace or self.max_passage_words is not None:
            passage = " ".join(passage.split())
        return passage

    def cut(self, passage: str) -> str:
        """The template's own cut of a normalised passage, by words and then by characters."""
        if self.max_passage_words is not None:
            passage = " ".join(passage.split(" ", self.max_passage_words)[: self.max_passage_words])
        return passage[: self.max_passage_chars]

    def render(
        self, query: str, passages: Sequence[str], chat: ChatRenderer, *, reasoning: bool = False
    ) -> str:
        """The whole prompt as text, passages as given (already prepared), identifiers filled in.

        Args:
            query: the search query.
            passages: the window's passages, in the order they are shown.
            chat: renders turns; used by chat templates only.
            reasoning: close with the reasoning form, which the template has to have.
        """
        common = {"query": query, "num": str(len(passages))}
        identified = [
            common | {"i": str(self.first_identifier + rank), "text": text}
            for rank, text in enumerate(passages)
        ]
        if self.text is not None:
            body = self.text.separator.join(_fill(self.text.passage, one) for one in identified)
            return _fill(self.text.opening, common) + body + _fill(self._closing(reasoning), common)
        assert self.chat is not None
        turns = _fill_turns(self.chat.opening, common)
        for one in identified:
            turns += _fill_turns(self.chat.passage, one)
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
    """How DeAR's code writes turns for a tokenizer that has no chat template: ``[ROLE] content`` lines."""
    return "\n".join(f"[{turn['role'].upper()}] {turn['content']}" for turn in turns)


def _fill(text: str, values: dict[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda match: values.get(match.group(1), match.group()), text)


def _fill_turns(turns: Iterable[Turn], values: dict[str, str]) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": _fill(turn.content, values)} for turn in turns]


def _contents(part: str | tuple[Turn, ...]) -> str:
    return part if isinstance(part, str) else "\n".join(turn.content for turn in part)
