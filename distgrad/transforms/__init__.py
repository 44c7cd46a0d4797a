"""Transformations of functions: derivatives by name, and rules that users write themselves."""

from distgrad.batching import vmap
from distgrad.transforms.custom import custom_gradient, grad_pass_through, recompute_grad
from distgrad.transforms.functional import grad, hvp, jvp, value_and_grad, vjp
from distgrad.transforms.jacobians import hessian, jacfwd, jacrev

__all__ = [
    "custom_gradient",
    "grad",
    "grad_pass_through",
    "hessian",
    "hvp",
    "jacfwd",
    "jacrev",
    "jvp",
    "recompute_grad",
    "value_and_grad",
    "vjp",
    "vmap",
]
