"""A graph as a folder that transformers loads."""
