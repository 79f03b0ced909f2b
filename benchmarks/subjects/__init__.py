"""One class for each way to keep a state in Redis, all with the same interface (see `subject.Subject`)."""
