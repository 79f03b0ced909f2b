"""What the store costs, measured beside what people would use instead."""
