"""Tenants with their API keys, limits and grants."""
