"""How good, and how fast."""
