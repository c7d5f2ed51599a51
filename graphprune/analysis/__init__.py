"""What goes together, why something may not go, and what everything costs."""
