"""The error tree beside the page that describes it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from dear_serving import errors
from dear_serving.errors import RequestError
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
