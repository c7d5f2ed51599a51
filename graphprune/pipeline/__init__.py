"""Recipes become passes, and passes run."""
