"""Execution: how forward and backward of a training run, what is held between them, and what is compiled."""
