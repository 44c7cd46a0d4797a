"""What tests are made of: sample inputs, gradient checks, and jobs of several ranks."""

from distgrad.testing.gradients import check_gradients

__all__ = ["check_gradients"]
