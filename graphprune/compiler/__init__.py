"""The commands of the compiler: compile, apply, dry run."""
