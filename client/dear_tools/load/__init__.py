"""Load tests: open and closed loop, mixes of tenants and adapters, and a report."""
