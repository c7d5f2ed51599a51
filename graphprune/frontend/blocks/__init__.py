"""Equal blocks are traced once, and their graph repeated."""
