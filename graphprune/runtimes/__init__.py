"""Runtimes people have: what the layers of a stock model may differ in there, as data, and what that means for a plan."""
