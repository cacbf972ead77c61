"""Code that vLLM imports and runs in its own processes."""
