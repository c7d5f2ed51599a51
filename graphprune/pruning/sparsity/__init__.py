"""Sparsity: which weights of a linear call are zero, and what the others become, by what the call reads."""
