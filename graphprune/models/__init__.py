"""How a transformers model is called, and what is changed in it while it is traced."""
