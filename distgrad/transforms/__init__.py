"""Transformations of functions: derivatives by name, and rules that users write themselves."""

from distgrad.transforms.functional import grad, hvp, jvp, value_and_grad, vjp
from distgrad.transforms.jacobians import hessian, jacfwd, jacrev
from distgrad.transforms.linearization import linearize
from distgrad.transforms.pullbacks import custom_gradient, grad_pass_through
from distgrad.transforms.pushforwards import custom_jvp
from distgrad.transforms.recomputation import recompute_grad
from distgrad.vectorizing import vmap

__all__ = [
    "custom_gradient",
    "custom_jvp",
    "grad",
    "grad_pass_through",
    "hessian",
    "hvp",
    "jacfwd",
    "jacrev",
    "jvp",
    "linearize",
    "recompute_grad",
    "value_and_grad",
    "vjp",
    "vmap",
]
