"""Activations: what a graph computes on the calibration data, as statistics that add up."""
