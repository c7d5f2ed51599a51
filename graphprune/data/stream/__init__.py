"""A text as an endless stream of packed rows to train on, kept on disk."""
