"""Patterns that are learned: dense weights trained under a mask that follows them, in the end zeros (AST)."""
