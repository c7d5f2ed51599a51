"""Many methods on one model, under one protocol, in one table."""
