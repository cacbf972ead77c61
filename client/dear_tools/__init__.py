"""The ``dear`` command's tools for users of a server: rerank, load, eval. They need no server packages."""
