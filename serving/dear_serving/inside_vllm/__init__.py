"""What vLLM imports and runs in processes of its own."""
