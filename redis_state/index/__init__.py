"""The index of an agent: the list of its sessions, newest first."""
