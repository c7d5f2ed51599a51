"""Signals: what methods read from a model: sums over units, gradients, curvature, changes of the stream, losses."""
