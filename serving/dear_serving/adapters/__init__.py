"""Adapters: what they must look like, and the prompt templates they name."""
