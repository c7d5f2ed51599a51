"""Policy: the probability that each bundle of units stays, learned from the losses of masks that are drawn by it."""
