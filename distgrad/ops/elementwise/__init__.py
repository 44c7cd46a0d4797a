"""Elementwise operations: each element of the result from one element of each operand."""
