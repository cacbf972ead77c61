"""``dear rerank``: one list from the command line, or files of them."""
