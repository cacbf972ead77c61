"""The durable truth about tenants, their keys and what was done to them: one SQL database."""
