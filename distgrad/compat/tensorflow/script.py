"""Python in the middle of a program: `numpy_function`, which cuts gradients, and `py_function`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distgrad.compat.tensorflow.dtypes import DType, as_dtype, spoken
from distgrad.compat.tensorflow.errors import InvalidArgumentError
from distgrad.compat.tensorflow.values import Tensor, convert_to_tensor
from distgrad.tensor import Operators


def numpy_function(
    func: Callable[..., Any] | None = None,
    inp: Sequence[Any] | None = None,
    Tout: Any = None,
    stateful: bool = True,
    name: str | None = None,
) -> Any:
    """Return what a function of NumPy arrays gives, as tensors without a gradient.

    Parameters
    ----------
    func : callable
        Takes an array for each of `inp`; returns an array for each of `Tout`.
    inp : sequence of Tensor, array or scalar
        The arguments.
    Tout : dtype or sequence of dtypes
        The dtypes of the results; of a sequence the result is a list.
    stateful : bool
        TensorFlow's advice to its graphs; nothing is cached here.

    Raises
    ------
    InvalidArgumentError
        If a result is not of its dtype; TensorFlow looks at that in its graphs only.

    Notes
    -----
    A tape knows nothing of what NumPy does: the gradient is None, as in TensorFlow, and
    ``tape.explain`` says that the values left. `py_function` is differentiated; and so are NumPy's
    own functions on tensors, without either of them.
    """
    function, arguments = _given("numpy_function", func, inp)
    found = function(*(convert_to_tensor(each).numpy() for each in arguments))

    def checked(value: Any, dtype: DType) -> Tensor:
        host = np.asarray(value)
        if host.dtype != dtype.dtype:
            raise InvalidArgumentError(
                f"numpy_function: {_name(function)} returns {spoken(host.dtype)}, but expects "
                f"{spoken(dtype.dtype)}; convert the result with astype, or change Tout"
            )
        return convert_to_tensor(host)

    return _as_asked("numpy_function", found, Tout, checked)


def py_function(
    func: Callable[..., Any] | None = None,
    inp: Sequence[Any] | None = None,
    Tout: Any = None,
    name: str | None = None,
) -> Any:
    """Return what a function of tensors gives; tapes differentiate it as if it stood here.

    Parameters
    ----------
    func : callable
        Takes a tensor for each of `inp`; returns a tensor, or what can be converted to one, for
        each of `Tout`.
    inp : sequence of Tensor, array or scalar
        The arguments.
    Tout : dtype or sequence of dtypes
        The dtypes of the results; of a sequence the result is a list.

    Raises
    ------
    InvalidArgumentError
        If a result is not of its dtype, and cannot be converted to it.
    """
    function, arguments = _given("py_function", func, inp)
    found = function(*(convert_to_tensor(each) for each in arguments))

    def checked(value: Any, dtype: DType) -> Tensor:
        try:
            return convert_to_tensor(value, dtype)
        except (TypeError, ValueError) as error:
            raise InvalidArgumentError(
                f"py_function: {_name(function)}: {error}; convert the result with tf.cast, or "
                "change Tout"
            ) from error

    return _as_asked("py_function", found, Tout, checked)


def _given(
    who: str, func: Callable[..., Any] | None, inp: Sequence[Any] | None
) -> tuple[Callable[..., Any], Sequence[Any]]:
    if not callable(func):
        raise TypeError(f"{who}: func is a {type(func).__name__}; expected a function")
    if inp is None or isinstance(inp, (Operators, np.ndarray)):
        raise TypeError(
            f"{who}: inp is a {type(inp).__name__}; expected a list of the function's arguments"
        )
    return func, inp


def _as_asked(who: str, found: Any, asked: Any, convert: Callable[[Any, DType], Tensor]) -> Any:
    """Return results as tensors: one for one dtype, a list for a sequence of dtypes."""
    if not isinstance(asked, (list, tuple)):
        if isinstance(found, (list, tuple)) and len(found) == 1:
            found = found[0]
        if asked is None:
            raise TypeError(f"{who}: Tout is missing; expected the dtype of the function's result")
        return convert(found, as_dtype(asked))
    several = list(found) if isinstance(found, (list, tuple)) else [found]
    if found is None and not asked:
        several = []
    if len(several) != len(asked):
        raise ValueError(
            f"{who}: the function returned {len(several)} results; expected {len(asked)}, one for "
            "each dtype of Tout"
        )
    return [convert(each, as_dtype(dtype)) for each, dtype in zip(several, asked, strict=True)]


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", "the function")
