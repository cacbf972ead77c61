"""A server's admin routes: ``dear adapters``, ``tenants``, ``keys``, ``audit`` and ``apply``."""
