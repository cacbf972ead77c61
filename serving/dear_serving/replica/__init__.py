"""The replica process: one vLLM engine, its adapters, and window decoding."""
