"""Weights that stay where they are stored, in the type that they are stored in, and become wide where they are read."""
