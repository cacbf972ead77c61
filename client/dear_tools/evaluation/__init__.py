"""``dear eval``: rerank judged candidate lists and report quality, significance and cost."""
