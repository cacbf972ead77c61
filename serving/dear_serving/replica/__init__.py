"""The replica process: one vLLM engine, what it may hold and how it decodes windows."""
