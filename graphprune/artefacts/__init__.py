"""Write all or nothing, and check what was written in a fresh process."""
