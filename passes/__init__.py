"""The concrete methods, one file each: importance, allocation and the passes that transform a graph."""
