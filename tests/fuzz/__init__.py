"""Coverage-guided fuzzing of what reads callers' bytes and models' text."""
