"""Fixtures of the ranking layer's tests."""

from tests.support.tokenizers import demo, either, llama3, llama3_backend, without_chat_template

__all__ = ["demo", "either", "llama3", "llama3_backend", "without_chat_template"]
