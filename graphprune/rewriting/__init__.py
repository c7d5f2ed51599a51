"""A plan becomes a smaller graph; the oracle beside it."""
