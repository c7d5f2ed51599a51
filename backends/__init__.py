"""Backends: each writes a graph as the files of one runtime."""
