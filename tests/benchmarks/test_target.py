"""Models with random weights, and the settings that the benchmarks serve a model with."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import target
from benchmarks.shapes import Shape
from dear_serving.adapters.preflight import check_models
from dear_serving.app import llm_config
from dear_serving.gateway.tokenizer import load_tokenizer
from dear_serving.settings import load_settings

pytestmark = pytest.mark.integration

SMALL = Shape(64, 2, 4, 2, 96, 4000, tied=False)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shape that takes no time to write."""
    monkeypatch.setitem(target.SHAPES, "small", SMALL)


@pytest.mark.parametrize("name", ["tiny", "small"])
def test_a_shape_passes_the_servers_own_checks(name: str, tmp_path: Path) -> None:
    measured = target.of_shape(name, tmp_path)
    settings = load_settings(measured.config)
    check_models(settings)
    assert settings.engine.accelerator == "cpu"
    assert [adapter.name for adapter in settings.adapters.serve] == [measured.model]
    assert settings.model.source == str(measured.base)


def test_a_shapes_tokenizer_has_a_word_for_every_token(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(target.of_shape("small", tmp_path).base), None)
    assert tokenizer.decode([SMALL.vocabulary - 1])
    assert max(tokenizer.encode("Rank [12] > [3]")) < SMALL.vocabulary


def test_with_cuda_the_settings_are_those_of_gpus_for_one_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    measured = target.of_shape("small", tmp_path)
    assert measured.apart
    settings = load_settings(measured.config)
    check_models(settings)
    assert settings.engine.accelerator == "gpu"
    assert settings.engine.replicas == settings.gateway.replicas == 1
    assert settings.http.host == "127.0.0.1"
    config = llm_config(settings)
    assert config.engine_kwargs["compilation_config"]["cudagraph_capture_sizes"]
    assert config.accelerator_type is None
