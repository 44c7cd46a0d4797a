"""Transformations of functions: derivatives by name, and rules that users write themselves."""

from distgrad.transforms.custom import custom_gradient, grad_pass_through, recompute_grad
from distgrad.transforms.functional import grad, hvp, jvp, value_and_grad, vjp

__all__ = [
    "custom_gradient",
    "grad",
    "grad_pass_through",
    "hvp",
    "jvp",
    "recompute_grad",
    "value_and_grad",
    "vjp",
]
