"""Rerank dialects: of each a body, how it becomes a RankTask, and how a Ranking becomes its reply."""
