"""Runtimes people have: what layers may differ in there without code of ours, as data, and what it means for a plan."""
