"""Adapters: checks, files, revisions in the registry, and their prompt templates."""
