"""The store in memory: the same promises without a server, through the same codec."""
