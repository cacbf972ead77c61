"""The dear command."""
