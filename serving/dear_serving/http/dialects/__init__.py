"""Rerank dialects. Each has a body, ``to_task`` (body to RankTask) and ``to_reply`` (Ranking to reply)."""
