"""Where a base model comes from, and whether its files may change there."""

from __future__ import annotations

from pathlib import Path

import pytest

from dear_serving.adapters.base_files import unpinned


def test_a_model_of_the_hub_may_change_and_is_warned_of() -> None:
    warning = unpinned("org/model-8B")
    assert warning is not None
    assert "model.source: org/model-8B" in warning
    assert "--revision" in warning


@pytest.mark.parametrize("source", ["s3://bucket/model", "https://host/model", "./folder", "/a/b"])
def test_folders_and_urls_are_the_operators_own(source: str) -> None:
    assert unpinned(source) is None


def test_a_folder_with_a_name_as_on_the_hub_is_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "model").mkdir(parents=True)
    assert unpinned("org/model") is None
