"""Edits: changes of a graph that leave its function as it is, so that more of it can be cut; one file a kind."""
