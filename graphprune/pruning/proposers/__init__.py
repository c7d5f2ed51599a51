"""Proposers that write: a language model is asked for the next candidates of a search, in words."""
