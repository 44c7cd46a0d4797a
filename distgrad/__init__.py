"""distgrad: gradients of NumPy and CuPy code by a tape, averaged over MPI ranks."""
