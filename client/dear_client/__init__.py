"""Client of the DeAR reranking server."""
