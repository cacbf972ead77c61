"""Rerank dialects: what each is, in one table. A dialect is a pair of functions, body to RankTask and Ranking
to reply.
"""
