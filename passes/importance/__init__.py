"""Importance: a score for every unit of every group."""
