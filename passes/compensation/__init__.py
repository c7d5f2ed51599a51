"""Compensation: how the weights that are left make up for those that went."""
