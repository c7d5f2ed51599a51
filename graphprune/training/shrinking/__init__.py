"""Shrinking: while weights are trained, the least salient units go, a few at a time, until a budget is met."""
