"""Migrations of the registry's tables. Alembic runs the missing ones when a server opens the database."""
