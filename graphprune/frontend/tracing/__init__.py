"""From a module to a normal graph: export, and the clean-ups after it."""
