"""Listwise reranking as a service: vLLM with many LoRA adapters behind Ray Serve."""

__version__ = "0.1.0"
