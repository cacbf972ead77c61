"""The registry: one SQL database with tenants, keys, adapters and the audit trail."""
