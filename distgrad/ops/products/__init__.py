"""Products that sum over axes: matrix products, tensor contractions, einsum."""
