"""Text becomes tokens: sources, tokenisation, windows, conversations, packing."""
