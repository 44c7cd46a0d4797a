"""Names that are not on the face: one that needs a package, and those of other libraries."""

from __future__ import annotations

from collections.abc import Iterable

from distgrad.dtypes import DType, as_dtype
from distgrad.errors import DTypeError

# What NumPy, TensorFlow, PyTorch, JAX and autograd call it, and what it is here.
ELSEWHERE = {
    "Adam": "distgrad.optimizers.Adam",
    "Module": "distgrad.nn.Module",
    "SGD": "distgrad.optimizers.SGD",
    "Tape": "distgrad.GradientTape",
    "array": "distgrad.asarray",
    "cast": "distgrad.astype",
    "checkpointing": "distgrad.recompute_grad",
    "clip_by_global_norm": "distgrad.optimizers.clip_by_global_norm",
    "clip_by_norm": "distgrad.optimizers.clip_by_norm",
    "clip_by_value": "distgrad.clip, or distgrad.optimizers.clip_by_value",
    "concatenate": "distgrad.concat",
    "constant": "distgrad.asarray",
    "convert_to_tensor": "distgrad.asarray",
    "cumprod": "distgrad.cumulative_prod",
    "cumsum": "distgrad.cumulative_sum",
    "defjvp": "distgrad.custom_jvp of a function",
    "defvjp": "distgrad.custom_gradient of a function",
    "deriv": "distgrad.jvp of a function, with tangents of ones",
    "detach": "distgrad.stop_gradient",
    "elementwise_grad": "distgrad.vjp of a function, with a cotangent of ones",
    "enable_grad": "a block of distgrad.GradientTape",
    "func": "distgrad.grad, vjp, jvp, jacrev ... themselves",
    "grad_and_aux": "distgrad.grad of a function, with has_aux=True",
    "gradient": "distgrad.grad of a function, or tape.gradient",
    "hessian_tensor_product": "distgrad.hvp of a function",
    "hessian_vector_product": "distgrad.hvp of a function",
    "holomorphic_grad": "distgrad.grad of the real part: the derivative is its conjugate",
    "jacobian": "distgrad.jacrev or jacfwd of a function, or tape.jacobian",
    "jit": "distgrad.function",
    "make_hvp": "distgrad.linearize of distgrad.grad of a function, or distgrad.hvp",
    "make_jvp": "distgrad.linearize, or distgrad.jvp",
    "make_vjp": "distgrad.vjp",
    "no_grad": "tape.stop_recording(), or distgrad.stop_gradient",
    "numpy": "numpy itself: its functions take tensors, and are differentiated",
    "optim": "distgrad.optimizers",
    "power": "distgrad.pow",
    "primitive": "distgrad.custom_gradient",
    "reduce_max": "distgrad.max",
    "reduce_mean": "distgrad.mean",
    "reduce_min": "distgrad.min",
    "reduce_prod": "distgrad.prod",
    "reduce_sum": "distgrad.sum",
    "remat": "distgrad.recompute_grad",
    "tf": "distgrad.compat.tensorflow",
    "transpose": "distgrad.permute_dims, or t.T",
}


def bfloat16() -> DType:
    """Return the dtype of a package that need not be there.

    Raises
    ------
    AttributeError
        If ml_dtypes is not installed: so ``hasattr(dg, "bfloat16")`` says whether it is.
    """
    try:
        return as_dtype("bfloat16")
    except DTypeError as error:
        raise AttributeError(str(error)) from error


def explained(name: str, known: Iterable[str]) -> str:
    """Return the message for a name that ``distgrad`` does not have.

    Parameters
    ----------
    name : str
        What was asked for.
    known : iterable of str
        The names that there are.
    """
    import difflib  # here: only who mistyped pays for them

    import numpy as np

    message = f"module 'distgrad' has no attribute {name!r}"
    if name in ELSEWHERE:
        return f"{message}; it is {ELSEWHERE[name]}"
    if name.startswith("_"):
        return message
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    if near:
        return f"{message}; did you mean {near[0]!r}?"
    if callable(getattr(np, name, None)):
        return f"{message}; NumPy's own np.{name} may take tensors, and is differentiated then"
    return message
