"""Gates: one graph with a factor on every unit, that can be searched and learned."""
