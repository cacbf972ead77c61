"""serving/ARCHITECTURE.md beside the code that it draws."""

from __future__ import annotations

import dataclasses
import re

from dear_client.options import RerankOptions
from dear_serving.http.dialects.options import DearOptions
from dear_serving.types import RankTask
from tests.conftest import ROOT

PAGE = (ROOT / "serving" / "ARCHITECTURE.md").read_text(encoding="utf-8")
SERVER = ROOT / "serving" / "dear_serving"


def test_the_tree_names_every_file_and_no_other() -> None:
    tree = PAGE.partition("## The house")[2].partition("```text")[2].partition("```")[0]
    drawn: set[str] = set()
    folder = ""
    for line in tree.splitlines():
        if match := re.match(r"  (\w+)/", line):
            folder = f"{match[1]}/"
        elif re.match(r"  \w", line):
            folder = ""
        drawn |= {folder + name for name in re.findall(r"\b\w+\.py\b", line)}
    files = {str(file.relative_to(SERVER)) for file in SERVER.rglob("*.py")}
    whole_folders = ("http/dialects/", "ranking/strategies/", "registry/")
    expected = {file for file in files if not file.startswith(whole_folders) and not file.endswith("__.py")}
    assert drawn == expected


def test_an_option_is_one_field_of_the_task_of_the_schema_and_of_the_client() -> None:
    schema = set(DearOptions.model_fields) - {"stream"}
    task = {field.name for field in dataclasses.fields(RankTask)}
    client = {"deadline_ms" if name == "deadline_s" else name for name in RerankOptions.__annotations__}
    assert schema <= task
    assert schema <= client
