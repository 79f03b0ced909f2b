"""What tests share: stores of every kind, servers that fail, and what judges histories."""
