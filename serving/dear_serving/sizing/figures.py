"""The figures of gpus.yaml: GPUs, efficiencies, the host around a GPU, and the engine's usual settings."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from dear_serving.errors import SettingsError
from dear_tools.plain_yaml import load_yaml

Numbers = Literal["bf16", "int8", "fp8"]
"""What a card multiplies in."""

_Positive = Annotated[float, Field(gt=0)]
_Share = Annotated[float, Field(gt=0, le=1)]


class _Figures(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Gpu(_Figures):
    """A card: ``memory_gb`` in 1e9 bytes, ``gb_s`` of its memory, dense ``tflop_s`` by kind of number."""

    name: str
    memory_gb: _Positive
    gb_s: _Positive
    tflop_s: dict[Numbers, _Positive]
    source: str

    @property
    def memory_bytes(self) -> float:
        """All of it."""
        return self.memory_gb * 1e9

    @property
    def bytes_s(self) -> float:
        """Memory bandwidth."""
        return self.gb_s * 1e9

    def flop_s(self, numbers: Numbers = "bf16") -> float:
        """Dense products; in bf16 where the card has no others."""
        return self.tflop_s.get(numbers, self.tflop_s["bf16"]) * 1e12


class Efficiency(_Figures):
    """Shares of a card's figures that work reaches; ``lora`` is an adapter's share of the bf16 peak."""

    compute: _Share
    memory: _Share
    lora: _Share


class Host(_Figures):
    """Seconds besides the GPU's: of a forward pass (runner, output), of each window in it, of a prompt's
    token, and of a request around the engine. ``busy_s`` is the part of a request that keeps the engine from
    working: none where gateways have cores of their own.
    """

    runner_s: Annotated[float, Field(ge=0)]
    output_s: Annotated[float, Field(ge=0)]
    window_pass_s: Annotated[float, Field(ge=0)]
    token_s: Annotated[float, Field(ge=0)]
    request_s: Annotated[float, Field(ge=0)]
    busy_s: Annotated[float, Field(ge=0)] = 0.0

    def pass_s(self, windows: float) -> float:
        """A forward pass with so many windows."""
        return self.runner_s + self.output_s + windows * self.window_pass_s


class EngineFigures(_Figures):
    """The settings of the GPU configurations, and assumptions about prompts and decoding."""

    memory_share: _Share
    max_num_seqs: Annotated[int, Field(ge=1)]
    max_model_len: Annotated[int, Field(ge=128)]
    working_gb: Annotated[float, Field(ge=0)]
    passes_a_passage: _Positive
    tokens_a_word: _Positive
    query_words: Annotated[int, Field(ge=1)]
    most_utilisation: _Share


class Figures(_Figures):
    """The whole file."""

    gpus: dict[str, Gpu]
    efficiency: Efficiency
    host: Host
    engine: EngineFigures

    def gpu(self, name: str) -> Gpu:
        """A card by its name, in capitals or not.

        Raises:
            SettingsError: it is not known.
        """
        if (found := self.gpus.get(name.strip().lower())) is None:
            raise SettingsError(f"--gpu: {name!r} is not known; known are {', '.join(self.gpus)}")
        return found


@lru_cache(maxsize=1)
def load_figures() -> Figures:
    """The figures of this release."""
    text = (resources.files("dear_serving.sizing") / "gpus.yaml").read_text(encoding="utf-8")
    return Figures.model_validate(load_yaml(text))
