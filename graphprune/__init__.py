"""graphprune: a compiler that turns a large language model into a small one that still works."""
