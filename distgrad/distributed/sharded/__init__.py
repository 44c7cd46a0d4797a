"""Optimizer state, gradients and parameters cut over the ranks, so that each holds its part."""
