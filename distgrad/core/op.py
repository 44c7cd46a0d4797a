"""An operation: its name, its rules of differentiation, and what those rules need kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple, TypeAlias


class Spec(NamedTuple):
    """Shape and dtype of an array that is not there (not kept, or not yet computed)."""

    shape: tuple[int, ...]
    dtype: Any

    @property
    def ndim(self) -> int:
        """Return the number of axes."""
        return len(self.shape)


class Slice(NamedTuple):
    """A slice in the metadata of an operation; Python 3.11's own is not hashable."""

    start: int | None
    stop: int | None
    step: int | None


class Placeholder(Enum):
    """Where in an index, which is metadata, one of the array arguments belongs."""

    ARRAY = "array"


class Kind(Enum):
    """How an operation relates its output's elements to its inputs'; all that fusion may know."""

    ELEMENTWISE = "elementwise"
    REDUCTION = "reduction"
    VIEW = "view"
    CONTRACTION = "contraction"
    OPAQUE = "opaque"


class Keep(Enum):
    """What a tape keeps of a call until the backward pass: the memory that an operation costs.

    The members say what a VJP rule finds in its arguments ``y`` (output) and ``xs`` (inputs):

    - ``SHAPES``: ``y`` is None and ``xs`` is the tuple of the inputs' shapes, or None where every
      input has the shape of the output.
    - ``SPECS``: ``y`` is None and ``xs`` is a tuple of `Spec`.
    - ``INPUTS``: ``y`` is None and ``xs`` is the tuple of the input arrays.
    - ``REST``: ``y`` is None, ``xs[0]`` is a `Spec` and the rest of ``xs`` are arrays.
    - ``POSITIONS``: ``y`` is None, ``xs[0]`` and ``xs[1]`` are `Spec` and the rest of ``xs`` are
      arrays: the positions in an index.
    - ``OUTPUT``: ``y`` is the output array and ``xs`` is None.
    - ``BOTH``: ``y`` is the output array and ``xs`` the tuple of the input arrays.
    - ``SUMMARIES``: ``xs`` is the tuple of the input arrays and ``y`` that of the outputs, of which
      the first is a `Spec`: only what is left beside it is read, such as the moments of a batch.

    A finer choice is a tuple instead of a member: for each input, the positions of the inputs that
    its cotangent is computed from. ``((1,), (0,))`` says that of a product only the *other* factor
    is read. Then ``xs`` holds the arrays that are read by a cotangent that is needed; each of the
    rest is a `Spec`, or None where it has the shape of the output.
    """

    SHAPES = "shapes"
    SPECS = "specs"
    INPUTS = "inputs"
    REST = "rest"
    POSITIONS = "positions"
    OUTPUT = "output"
    BOTH = "both"
    SUMMARIES = "summaries"


Array: TypeAlias = Any  # a backend's own array, or whatever a transformation uses for one
Namespace: TypeAlias = Any  # the vocabulary, callable: `xp.sin(x)`, `xp.sum(x, axis=0)`
SpecRule: TypeAlias = Callable[..., Any]
VJPRule: TypeAlias = Callable[
    [Namespace, Array, Array, Any, dict[str, Any], Sequence[int]], Sequence[Array | None]
]
JVPRule: TypeAlias = Callable[
    [Namespace, Sequence[Array | None], Array, Any, dict[str, Any]], Array
]
BatchRule: TypeAlias = Callable[
    [Namespace, int, Sequence[bool], Sequence[Array], dict[str, Any]], Array
]


@dataclass(frozen=True, slots=True, eq=False)
class Op:
    """One operation of the vocabulary.

    Array arguments are positional, metadata (axis, shape, dtype) are keywords and hashable. The
    rules compute in a namespace ``xp`` that they receive: a backend's own kernels on raw arrays,
    or the recorded operations on tensors when the result is to be differentiated again.

    Parameters
    ----------
    name : str
        The name in the vocabulary, and of the kernel in every backend.
    kind : Kind
        What fusion may know of the operation.
    spec : callable
        ``spec(*specs, **params) -> Spec``: shape and dtype of the output from those of the inputs
        (a tuple of `Spec` for several outputs). Raises `ShapeError` with the explanation where
        shapes do not fit. A Python scalar among the inputs is passed as it is.
    vjp : callable, optional
        ``vjp(xp, g, y, xs, params, needs) -> cotangents``, one for each input, with anything where
        ``needs`` is false (it is ignored). ``g`` is the cotangent of the output (a sequence for
        several outputs); ``y`` and ``xs`` hold what `keep` says. None: not differentiable.
    jvp : callable, optional
        ``jvp(xp, tangents, y, xs, params) -> tangent`` of the output; the tangent of an input is
        None where it is zero, not all are None. ``y`` and ``xs`` are always complete here.
    keep : Keep or tuple of tuple of int
        What the tape keeps for ``vjp``.
    compose : callable, optional
        ``compose(xp, *arrays, **params)``: the operation in terms of others, for backends without
        a kernel of this name.
    batch : callable, optional
        ``batch(xp, size, batched, arrays, params) -> array``, see `distgrad.ops.rules.batching`.
    outputs : int or None
        How many outputs; 1 is a bare array, None a tuple of a length known only after the call.
    """

    name: str
    kind: Kind
    spec: SpecRule
    vjp: VJPRule | None = None
    jvp: JVPRule | None = None
    keep: Keep | tuple[tuple[int, ...], ...] = Keep.INPUTS
    compose: Callable[..., Any] | None = None
    batch: BatchRule | None = None
    outputs: int | None = 1

    def __repr__(self) -> str:
        return f"<op {self.name}>"


class Composed(Op):
    """An operation outside of the vocabulary, such as one made for a single call.

    No backend has a kernel of it, whatever its name: everywhere its composition runs, and nobody
    remembers it.
    """

    __slots__ = ()


class Acting(Composed):
    """An operation that may do more than compute, such as speak with other ranks.

    It runs as often as the program says, and at its place: never to try something out.
    """

    __slots__ = ()
