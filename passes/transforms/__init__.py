"""Passes: a graph in, a graph out."""
