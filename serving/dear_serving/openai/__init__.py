"""What an OpenAI request may hold."""
