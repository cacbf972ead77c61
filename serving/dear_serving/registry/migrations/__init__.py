"""The registry's tables, step by step. Alembic runs what a database lacks when a server opens it."""
