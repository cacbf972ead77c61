"""Load tests: open and closed loop, mixes of tenants and adapters, and what came of it as a report."""
