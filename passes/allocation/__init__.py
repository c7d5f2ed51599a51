"""Allocation: how many units each group keeps, given the scores and the budget."""
