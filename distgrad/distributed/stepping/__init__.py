"""Optimizers that average over ranks by themselves, at once or where variables are read next."""
