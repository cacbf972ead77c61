"""``dear eval``: rerank judged candidate lists and report how good, how sure and how dear the orders are."""
