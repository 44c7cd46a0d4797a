"""Shaping: the same elements under another shape, in another order, on another device."""
