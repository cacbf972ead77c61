"""The error tree: as the page describes it, and whole on the other side of a process."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from typing import Any

import pytest

from dear_serving import errors
from dear_serving.errors import DearError, RateLimited, RequestError
from tests.conftest import ROOT


def replies(kind: type[RequestError] = RequestError) -> Iterator[tuple[int, str]]:
    """Status and code of every error below one."""
    for one in kind.__subclasses__():
        if one.__module__ == errors.__name__ and one.code is not None:
            yield one.status, one.code
        yield from replies(one)


def test_the_page_has_every_code_with_its_status() -> None:
    page = (ROOT / "serving" / "README.md").read_text().partition("## Errors")[2].partition("\n## ")[0]
    shown = {
        (int(status), code)
        for status, codes in re.findall(r"^\| (\d{3}) \| (.*?) \|", page, re.MULTILINE)
        for code in re.findall(r"`(\w+)`", codes)
    }
    assert shown == set(replies())


def every(kind: type[DearError] = DearError) -> Iterator[type[DearError]]:
    """The whole tree."""
    yield kind
    for one in kind.__subclasses__():
        yield from every(one)


@pytest.mark.parametrize("kind", list(every()), ids=lambda kind: kind.__name__)
def test_an_error_is_the_same_after_it_crossed_processes(kind: type[DearError]) -> None:
    given: dict[str, Any] = {}
    if issubclass(kind, RequestError):
        given["retry_after_s"] = 2.5
    if issubclass(kind, RateLimited):
        given["headers"] = {"x-ratelimit-remaining-tokens": "0"}
    elif issubclass(kind, RequestError):
        given["param"] = "documents.3"
    error = kind("one sentence", **given)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == "one sentence"
    assert vars(copy) == vars(error)
