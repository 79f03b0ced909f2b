"""How requests reach a server: pending requests, routing, retries, connections. Knows Redis, nothing of agents."""
