"""What a dialect is: an entry of the table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field

from dear_serving.errors import RequestError
from dear_serving.http.dialects.options import DearOptions
from dear_serving.types import Ranking, RankTask

MODEL = "The base model's id or an adapter's name; absent: the server's default."
INSTRUCTION = "What the order is for, in words; blank: none."
AtLeastZero = Annotated[int, Field(ge=0)]
Query = Annotated[str, Field(description="The search query.", json_schema_extra={"pattern": r"\S"})]
Texts = Annotated[list[str], Field(json_schema_extra={"minItems": 1})]

_MOST_NAMED, _NAME_CHARS = 10, 64


class Body(BaseModel):
    """What every dialect's body has. Other fields are ignored, and named in a warning."""

    model_config = ConfigDict(extra="ignore", strict=True)

    model: str | None = Field(None, description=MODEL)
    dear: DearOptions | None = None

    @property
    def notes(self) -> list[str]:
        """A sentence for each field that is known here and asks for what this server does not do."""
        return []

    def for_reply(self) -> Self:
        """What the reply needs of the body: not the documents, unless they come back."""
        return self

    def task(self, query: str, passages: list[str], **options: Any) -> RankTask:
        """The task with the body's own options; those under ``dear`` count first."""
        own = self.dear.task_fields() if self.dear is not None else {}
        return RankTask(query, passages, model=self.model, **(options | own))


@dataclass(frozen=True)
class Dialect:
    """How one API is spoken.

    Args:
        name: of the folder ``/compat/NAME``, under which all of its paths are.
        title: whose API it is.
        paths: of its own, which a client with our URL as its base URL calls.
        body: its request.
        reply: its reply, for the OpenAPI document.
        to_task: the task in a body of at most so many characters a document.
        to_reply: the reply, from body, task, ranking and request id.
        passages: the field that has them, for errors and limits; the first one that a body has.
        query: the field that has the query, as ``passages``.
        examples: bodies by what they show.
        docs: where the API is documented.
        sdk: a client of it that the tests run.
        claims: whether a body is of this dialect, where a path has several; given whether the key came in the
            header ``Api-Key``.
        has_meta: whether warnings have a place in the reply, which can be streamed then; else they go into
            the header ``X-Dear-Warnings``.
        error: fields that its error bodies have beside ours.
        parameters: of its paths, by an example.
    """

    name: str
    title: str
    paths: tuple[str, ...]
    body: type[Body]
    reply: Any
    to_task: Callable[[Any, int], RankTask]
    to_reply: Callable[[Any, RankTask, Ranking, str], Any]
    docs: str
    examples: Mapping[str, Mapping[str, Any]]
    passages: tuple[str, ...] = ("documents",)
    query: tuple[str, ...] = ("query",)
    sdk: str | None = None
    claims: Callable[[Mapping[str, Any], bool], bool] = lambda data, has_api_key: True
    has_meta: bool = False
    error: Callable[[RequestError], Mapping[str, Any]] = lambda error: {}
    parameters: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """What its paths begin with where a base URL picks it."""
        return f"/compat/{self.name}"

    @cached_property
    def fields(self) -> frozenset[str]:
        """The names that a body of it may have."""
        return frozenset(self.body.model_fields)

    def warnings(self, data: Mapping[str, Any], body: Body) -> tuple[str, ...]:
        """What of a body has no effect, one sentence each."""
        found = [name for name in data.keys() - self.fields if data[name] is not None]
        unknown = [*sorted(found), *_nested(body)]
        sentence = f"ignored, since the dialect of {self.title} does not have it: {_listed(unknown)}"
        return (*([sentence] if unknown else []), *body.notes)


@dataclass(frozen=True, slots=True)
class Parsed:
    """A body that was read: in which dialect, what of it the reply needs, its task, and what has no effect.

    ``passages`` and ``query`` are the fields' names in this body.
    """

    dialect: str
    body: Body
    task: RankTask
    warnings: tuple[str, ...]
    passages: str
    query: str


def _nested(model: BaseModel, path: str = "") -> Iterator[str]:
    """Names of unknown fields in the parts of a body that keep them."""
    for name in model.__pydantic_extra__ or ():
        yield path + name
    for name, value in vars(model).items():
        if isinstance(value, BaseModel):
            yield from _nested(value, f"{path}{name}.")
        elif isinstance(value, list) and value and isinstance(value[0], BaseModel):
            for position, one in enumerate(value):
                yield from _nested(one, f"{path}{name}.{position}.")


def _listed(names: Iterable[str]) -> str:
    names = [name[:_NAME_CHARS] for name in names]
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
