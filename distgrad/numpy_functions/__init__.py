"""NumPy's own functions on tensors: one file a subject, and the protocols that lead to them."""
