"""Mixed precision: which operations a block computes in a narrow dtype, and which in float32."""

from __future__ import annotations

from contextlib import ContextDecorator
from functools import cache
from types import TracebackType
from typing import Any

import numpy as np

from distgrad.core.op import Kind, Op
from distgrad.core.seam import AUTOCAST, OPEN_KEEPERS, apply
from distgrad.dtypes import DType, DTypeLike, as_dtype, float16, float32
from distgrad.errors import DTypeError
from distgrad.ops.shaping.structure import ASTYPE
from distgrad.tensor import Operators

# Products take most of the time, and processors have circuits for narrow ones that add up in
# float32. The lists follow PyTorch's (its manual, "Automatic Mixed Precision", CUDA op reference).
NARROW = frozenset(
    "matmul linear linear_relu contract conv conv_transpose attention lstm gru".split()
)
# Beside elementwise operations, what promotes its operands to one dtype.
PROMOTING = frozenset(("concat",))
# Sums of many terms, and functions whose range or slope leaves what narrow numbers can hold.
WIDE = frozenset(
    "sum mean prod cumulative_sum cumulative_prod logsumexp softmax log_softmax "
    "label_cross_entropy layer_norm rms_norm batch_norm normalize moments "
    "euclidean_norm exp exp2 exp10 expm1 log log1p log2 log10 pow reciprocal sinh cosh tan "
    "asin acos softplus erfinv".split()
)


def autocast(dtype: DTypeLike = "bfloat16", *, enabled: bool = True) -> Autocasting:
    """Compute products in a narrow dtype, and sums, softmax, losses and norms in float32.

    Parameters
    ----------
    dtype : dtype
        ``"float16"`` or ``"bfloat16"``.
    enabled : bool
        False: within another such block, compute as outside of it.

    Returns
    -------
    context manager
        For a ``with`` block, or as a decorator of a function.

    Raises
    ------
    DTypeError
        If the dtype is another one.

    Notes
    -----
    Products of matrices, convolutions, `einsum`, attention and recurrent networks take float32
    operands in `dtype`, and return it; what adds up many terms or has a large range takes narrow
    operands in float32; any other operation computes in the dtype to which its operands promote.
    Cotangents have the dtypes of what they belong to, so products of the walk back are narrow, too.
    float64, complex numbers and integers stay what they are. Each change of dtype is an operation
    that tapes hear: gradients come back in the dtype of the source, so variables stay float32.

    Enter it around the forward computation; the backward pass follows the dtypes that it finds.
    A traced function is traced again where the block's dtype differs. The setting belongs to the
    thread. With float16, scale the loss, or small gradients become 0.

    On a CPU this is slower than float32, which is what its circuits compute in: there it serves to
    test what a job on GPUs will do.

    Examples
    --------
    >>> import distgrad as dg
    >>> weights = dg.Variable([[1.0, 2.0], [3.0, 4.0]])
    >>> with dg.autocast("float16"), dg.GradientTape() as tape:
    ...     y = dg.ones((1, 2)) @ weights
    ...     loss = dg.sum(y)
    >>> y.dtype, loss.dtype, tape.gradient(loss, weights).dtype
    (dtype('float16'), dtype('float32'), dtype('float32'))
    """
    narrow = _known(dtype) if isinstance(dtype, (str, np.dtype)) else _narrow(dtype)
    return Autocasting(narrow if enabled else None)


class Autocasting(ContextDecorator):
    """Compute as a block with this narrow dtype does, or, for None, as outside of any block.

    Parameters
    ----------
    narrow : dtype or None
        The dtype.
    """

    def __init__(self, narrow: DType | None) -> None:
        self._narrow = narrow
        self._tokens: list[Any] = []  # of the blocks that are open

    def _recreate_cm(self) -> Autocasting:
        return Autocasting(self._narrow)  # for each call of a decorated function, in any thread

    def __enter__(self) -> None:
        if AUTOCAST.get() is self._narrow:  # nobody in any thread has to ask for it
            self._tokens.append(None)
            return
        token = AUTOCAST.set(self._narrow)
        self._tokens.append(token)
        OPEN_KEEPERS.add(id(token))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        token = self._tokens.pop()
        if token is not None:
            OPEN_KEEPERS.discard(id(token))
            AUTOCAST.reset(token)


def _narrow(dtype: DTypeLike) -> DType:
    chosen = as_dtype(dtype)
    if chosen.name not in ("float16", "bfloat16"):
        raise DTypeError(f"autocast: dtype is {chosen}; expected float16 or bfloat16")
    return chosen


_known = cache(_narrow)  # NumPy takes 5 microseconds for the name of a dtype


def autocast_operands(op: Op, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the operands of an operation as the block of `autocast` computes with them, if any.

    Parameters
    ----------
    op : Op
        The operation.
    inputs : tuple
        Tensors, variables, arrays and scalars.

    Returns
    -------
    tuple
        `inputs` itself where nothing changes.
    """
    narrow: DType | None = AUTOCAST.get()
    if narrow is None:
        return inputs
    if op.name in NARROW:
        wanted, replaced = narrow, {float32, float16, narrow}
    elif op.name in WIDE:
        wanted, replaced = float32, {narrow}
    elif op.name in PROMOTING or op.kind is Kind.ELEMENTWISE:
        return _promoted(narrow, inputs)
    else:
        return inputs
    dtypes = _dtypes_of(inputs)
    others = [d for d in dtypes if d is not None and d.kind in "fc" and d not in replaced]
    if wanted == narrow and others:  # beside float64 nothing is gained
        return inputs
    return _changed(inputs, [dtype in replaced and dtype != wanted for dtype in dtypes], wanted)


def _dtypes_of(inputs: tuple[Any, ...]) -> list[DType | None]:
    arrays = (Operators, np.ndarray, np.generic)
    return [x.dtype if isinstance(x, arrays) else None for x in inputs]


def _promoted(narrow: DType, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return narrow operands in float32 if some are in it already.

    Kernels would promote them, too, but unheard by tapes: cotangents would stay in float32, and
    with them all products of the walk back.
    """
    dtypes = _dtypes_of(inputs)
    if narrow not in dtypes or float32 not in dtypes:
        return inputs
    return _changed(inputs, [dtype == narrow for dtype in dtypes], float32)


def _changed(inputs: tuple[Any, ...], changing: list[bool], wanted: DType) -> tuple[Any, ...]:
    if True not in changing:
        return inputs
    return tuple(
        apply(ASTYPE, x, dtype=wanted) if changes else x
        for x, changes in zip(inputs, changing, strict=True)
    )
