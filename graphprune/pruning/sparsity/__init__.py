"""Sparsity: which weights of a linear call are zero, and what the others become, from second moments of what it reads."""
