"""Axis rules, one file an operator family: how the axes of an operator's inputs and outputs relate."""
