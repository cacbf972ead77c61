"""The shapes of a Llama-like base model, read from its config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_HEADER_BYTES = 4 << 20
_WIDEST_FLOAT = 4


@dataclass(frozen=True, slots=True)
class BaseShape:
    """Shapes of a Llama-like base model: layers, and (inputs, outputs) of each projection LoRA may target in
    each of them; ``head``: the same of the output layer, (hidden size, vocabulary).

    ``hub_ids``: Hugging Face ids of the models whose adapters fit, the model's own first; empty for a model
    from a local folder.
    """

    layers: int
    projections: Mapping[str, tuple[int, int]]
    hub_ids: tuple[str, ...] = ()
    head: tuple[int, int] = (0, 0)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], hub_ids: tuple[str, ...] = ()) -> BaseShape:
        """Read a model's ``config.json``; raises KeyError if the model is not Llama-like."""
        hidden, inner = config["hidden_size"], config["intermediate_size"]
        heads = config["num_attention_heads"]
        head_dim = config.get("head_dim") or hidden // heads
        queries = heads * head_dim
        keys = (config.get("num_key_value_heads") or heads) * head_dim
        return cls(
            layers=config["num_hidden_layers"],
            projections={
                "q_proj": (hidden, queries),
                "k_proj": (hidden, keys),
                "v_proj": (hidden, keys),
                "o_proj": (queries, hidden),
                "gate_proj": (hidden, inner),
                "up_proj": (hidden, inner),
                "down_proj": (inner, hidden),
            },
            hub_ids=hub_ids,
            head=(hidden, config.get("vocab_size", 0)),
        )

    def most_bytes(self, rank: int) -> int:
        """Maximum bytes of weights of this rank: every projection of every layer and the output layer, in
        float32."""
        values = self.layers * sum(inputs + outputs for inputs, outputs in self.projections.values())
        return (values + sum(self.head)) * rank * _WIDEST_FLOAT + _HEADER_BYTES
