"""Sweeping: one method at many sizes, from one scoring and one library, as a curve of quality against size."""
