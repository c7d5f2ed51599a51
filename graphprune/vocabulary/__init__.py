"""Tokens that go: ranking, cutting, and the tokenizer that is left."""
