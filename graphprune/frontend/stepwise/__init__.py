"""The graph that continues a text, derived from the one that reads a whole text."""
