"""Shearing: masks and weights are trained together until the masks have a target shape, which is then cut out."""
