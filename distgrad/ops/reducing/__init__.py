"""Reductions, and their running forms: many elements become one along an axis."""
