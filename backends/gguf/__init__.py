"""A graph as a GGUF file, for llama.cpp."""
