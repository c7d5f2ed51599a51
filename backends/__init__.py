"""Backends: a graph in, files out; each artefact is checked against the graph."""
