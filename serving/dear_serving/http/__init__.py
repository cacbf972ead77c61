"""HTTP in, HTTP out: routes, bodies, replies, errors. Runs in the gateway process."""
