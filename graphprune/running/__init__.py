"""Run a graph or a model, and compare what two of them compute."""
