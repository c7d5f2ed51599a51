"""Mixtures of experts larger than memory: only the experts that tokens are routed to are read, and few are kept."""
