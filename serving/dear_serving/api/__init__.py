"""The wire: dialects, OpenAI routes, keys and error bodies."""
