"""The Hugging Face tokens of the machine that builds the application, for the processes that need them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Self

VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
"""Environment variables that hold a token. huggingface_hub reads them at every call."""


@dataclass(frozen=True, slots=True)
class HubTokens:
    """Tokens as an argument of a constructor, and not in a Ray runtime environment: Ray logs those."""

    values: dict[str, str] = field(repr=False)

    @classmethod
    def from_environment(cls) -> Self:
        """Those of this process."""
        return cls({name: os.environ[name] for name in VARIABLES if os.environ.get(name)})

    def use(self) -> None:
        """Set them in this process and in those that it starts; what a node has of its own stays."""
        for name, value in self.values.items():
            os.environ.setdefault(name, value)
