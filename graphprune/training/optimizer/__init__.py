"""The optimizer: AdamW, the types that its moments are kept in, and the graph's companions that they become."""
