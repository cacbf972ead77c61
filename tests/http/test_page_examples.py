"""The examples of the page are those of the demo."""

from __future__ import annotations

import re

from dear_serving.cli.demo import EXAMPLES
from tests.http.test_pages import FOLDER


def test_the_page_brings_the_lists_of_the_demo() -> None:
    source = (FOLDER / "examples.js").read_text()
    found = re.findall(r'query: "([^"]+)",\s+passages: \[\n(.*?)\n    \],', source, re.DOTALL)
    lists = [(query, tuple(re.findall(r'^\s+"(.*)",$', passages, re.MULTILINE))) for query, passages in found]
    assert lists == [(one.query, one.passages) for one in EXAMPLES]
