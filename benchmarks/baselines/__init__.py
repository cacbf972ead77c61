"""What our server is measured against: the model card's own pipeline, and vLLM's server with a client."""
