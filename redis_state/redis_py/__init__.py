"""Everything that touches redis-py: opening connections, Sentinel, the slot map, why it failed."""
