"""Targets, quantities, and the solvers that meet them."""
