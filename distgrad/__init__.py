"""distgrad: gradients of NumPy and CuPy code by a tape, averaged over MPI ranks.

The face of the library: its public names, and nothing computed.
"""

from importlib import import_module
from math import e, inf, nan, pi
from typing import TYPE_CHECKING, Any

from distgrad import debug, fft, linalg, special
from distgrad.autocasting import autocast
from distgrad.debug import debug_nans
from distgrad.dtypes import bool_ as bool
from distgrad.dtypes import (
    complex64,
    complex128,
    float16,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    set_default_dtype,
    uint8,
    uint16,
    uint32,
    uint64,
)
from distgrad.dtypes import default_dtype as get_default_dtype
from distgrad.eager import asarray, list_backends, set_backend, use_backend
from distgrad.entering import from_dlpack
from distgrad.graph import cond, function, scan, while_loop
from distgrad.namespace_info import __array_namespace_info__
from distgrad.numpy_functions import call_ufunc as _call_ufunc  # noqa: F401  binds np.f(tensor)
from distgrad.ops.creation import (
    arange,
    empty,
    empty_like,
    eye,
    full,
    full_like,
    linspace,
    ones,
    zeros,
)
from distgrad.ops.elementwise.arithmetic import (
    abs,
    add,
    ceil,
    divide,
    floor,
    floor_divide,
    maximum,
    minimum,
    multiply,
    negative,
    positive,
    pow,
    reciprocal,
    remainder,
    round,
    sign,
    square,
    subtract,
    trunc,
)
from distgrad.ops.elementwise.bitwise import (
    bitwise_and,
    bitwise_invert,
    bitwise_left_shift,
    bitwise_or,
    bitwise_right_shift,
    bitwise_xor,
)
from distgrad.ops.elementwise.comparison import (
    equal,
    greater,
    greater_equal,
    isfinite,
    isinf,
    isnan,
    less,
    less_equal,
    logical_and,
    logical_not,
    logical_or,
    logical_xor,
    not_equal,
)
from distgrad.ops.elementwise.complex_numbers import conj, imag, real
from distgrad.ops.elementwise.error_function import erf, erfc
from distgrad.ops.elementwise.magnitudes import copysign, hypot, nextafter, signbit
from distgrad.ops.elementwise.selection import clip, multiply_no_nan, where
from distgrad.ops.elementwise.transcendental import (
    acos,
    acosh,
    asin,
    asinh,
    atan,
    atan2,
    atanh,
    cos,
    cosh,
    exp,
    expm1,
    log,
    log1p,
    log2,
    log10,
    logaddexp,
    sin,
    sinh,
    sqrt,
    tan,
    tanh,
)
from distgrad.ops.linalg.parts import diag, diagonal, trace
from distgrad.ops.linalg.products import inner, kron, outer, vdot
from distgrad.ops.neural.cross_entropy import sigmoid_cross_entropy, softmax_cross_entropy
from distgrad.ops.neural.kinks import relu
from distgrad.ops.neural.softmax import log_softmax, one_hot, sigmoid, softmax, softplus
from distgrad.ops.ordering.searching import count_nonzero, nonzero, searchsorted
from distgrad.ops.ordering.sets import unique_all, unique_counts, unique_inverse, unique_values
from distgrad.ops.ordering.sorting import argsort, sort
from distgrad.ops.picking.along import take_along_axis
from distgrad.ops.picking.gathering import embedding, gather
from distgrad.ops.picking.indexing import take
from distgrad.ops.products.contractions import matmul, tensordot, vecdot
from distgrad.ops.products.einsum import einsum
from distgrad.ops.reducing.deviations import std, var
from distgrad.ops.reducing.reductions import (
    all,
    any,
    argmax,
    argmin,
    logsumexp,
    max,
    mean,
    min,
    prod,
    sum,
)
from distgrad.ops.reducing.running import cumulative_prod, cumulative_sum, diff
from distgrad.ops.shaping.arrangement import (
    broadcast_arrays,
    meshgrid,
    moveaxis,
    repeat,
    roll,
    tile,
    tril,
    triu,
    unstack,
)
from distgrad.ops.shaping.structure import (
    astype,
    broadcast_to,
    concat,
    expand_dims,
    flip,
    matrix_transpose,
    ones_like,
    permute_dims,
    reshape,
    squeeze,
    stack,
    zeros_like,
)
from distgrad.promotion import can_cast, finfo, iinfo, isdtype, result_type
from distgrad.sparse import IndexedSlices
from distgrad.tape import (
    ForwardAccumulator,
    GradientTape,
    UnconnectedGradients,
    debug_mutations,
    gradient_hook,
    offload_to_disk,
    offload_to_host,
    saved_values,
    stop_gradient,
)
from distgrad.tensor import Tensor
from distgrad.transforms import (
    custom_gradient,
    custom_jvp,
    grad,
    grad_pass_through,
    hessian,
    hvp,
    jacfwd,
    jacrev,
    jvp,
    linearize,
    recompute_grad,
    value_and_grad,
    vjp,
    vmap,
)
from distgrad.variable import Variable

if TYPE_CHECKING:
    from distgrad import nn, random

# Imported when they are asked for.
_LATE = tuple("checkpoint data distributed nn optimizers random testing training".split())

__version__ = "0.1.0.dev0"
__array_api_version__ = "2024.12"
newaxis = None  # in a subscript: a new axis of length 1

__all__ = [
    "ForwardAccumulator", "GradientTape", "IndexedSlices", "Tensor", "UnconnectedGradients",
    "Variable", "__array_api_version__", "__array_namespace_info__", "abs", "acos", "acosh", "add",
    "all", "any", "arange", "argmax", "argmin", "argsort", "asarray", "asin", "asinh", "astype",
    "atan", "atan2", "atanh", "autocast", "bitwise_and", "bitwise_invert", "bitwise_left_shift",
    "bitwise_or", "bitwise_right_shift", "bitwise_xor", "bool", "broadcast_arrays", "broadcast_to",
    "can_cast", "ceil", "clip", "complex64", "complex128", "concat", "cond", "conj", "copysign",
    "cos", "cosh", "count_nonzero", "cumulative_prod", "cumulative_sum", "custom_gradient",
    "custom_jvp", "debug", "debug_mutations", "debug_nans", "diag", "diagonal", "diff", "divide",
    "e", "einsum", "embedding", "empty", "empty_like", "equal", "erf", "erfc", "exp", "expand_dims",
    "expm1", "eye", "fft", "finfo", "flip", "float16", "float32", "float64", "floor",
    "floor_divide", "from_dlpack", "full", "full_like", "function", "gather", "get_default_dtype",
    "grad", "grad_pass_through", "gradient_hook", "greater", "greater_equal", "hessian", "hvp",
    "hypot", "iinfo", "imag", "inf", "inner", "int8", "int16", "int32", "int64", "isdtype",
    "isfinite", "isinf", "isnan", "jacfwd", "jacrev", "jvp", "kron", "less", "less_equal", "linalg",
    "linearize", "linspace", "list_backends", "log", "log1p", "log2", "log10", "log_softmax",
    "logaddexp", "logical_and", "logical_not", "logical_or", "logical_xor", "logsumexp", "matmul",
    "matrix_transpose", "max", "maximum", "mean", "meshgrid", "min", "minimum", "moveaxis",
    "multiply", "multiply_no_nan", "nan", "negative", "newaxis", "nextafter", "nn", "nonzero",
    "not_equal", "offload_to_disk", "offload_to_host", "one_hot", "ones", "ones_like", "outer",
    "permute_dims", "pi", "positive", "pow", "prod", "random", "real", "reciprocal",
    "recompute_grad", "relu", "remainder", "repeat", "reshape", "result_type", "roll", "round",
    "saved_values", "scan", "searchsorted", "set_backend", "set_default_dtype", "sigmoid",
    "sigmoid_cross_entropy", "sign", "signbit", "sin", "sinh", "softmax", "softmax_cross_entropy",
    "softplus", "sort", "special", "sqrt", "square", "squeeze", "stack", "std", "stop_gradient",
    "subtract", "sum", "take", "take_along_axis", "tan", "tanh", "tensordot", "tile", "trace",
    "tril", "triu", "trunc", "uint8", "uint16", "uint32", "uint64", "unique_all", "unique_counts",
    "unique_inverse", "unique_values", "unstack", "use_backend", "value_and_grad", "var", "vdot",
    "vecdot", "vjp", "vmap", "where", "while_loop", "zeros", "zeros_like",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return import_module(f"distgrad.{name}")
    from distgrad.unknown_names import bfloat16, explained

    if name == "bfloat16":
        return bfloat16()
    raise AttributeError(explained(name, __dir__()))


def __dir__() -> list[str]:
    own = (name for name in globals() if name.startswith("__"))
    return sorted({*__all__, *_LATE, *own})
