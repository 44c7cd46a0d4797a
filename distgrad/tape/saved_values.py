"""saved_values: hooks of the user's own for what tapes keep, and a check that nobody changed it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import numpy as np

from distgrad.core.seam import LISTENERS
from distgrad.debug import user_line
from distgrad.errors import MutationError
from distgrad.tape.packing import MEMORY, PACKING, Packing, packing_in_force


def saved_values(
    pack: Callable[[Any], Any], unpack: Callable[[Any], Any]
) -> AbstractContextManager[None]:
    """Pass every array that a tape keeps for its rules through hooks of your own.

    Parameters
    ----------
    pack : callable
        ``pack(array) -> anything``, called when an operation of the block is recorded, with each
        array that its rule will read: a raw array of the backend, not to be changed. What it
        returns is kept in place of the array. An array that several records keep is packed once.
    unpack : callable
        ``unpack(anything) -> array``, called just before a rule that reads the array runs, also
        after the block: of the same shape, dtype and backend as `pack` received it.

    Returns
    -------
    context manager
        Of nested blocks the innermost counts. Tapes may be entered before it or within.

    Raises
    ------
    TypeError
        If `pack` or `unpack` cannot be called, or `unpack` returns no array.
    ShapeError, DTypeError
        If `unpack` returns an array of another shape or dtype.

    Notes
    -----
    Packed are arrays of numbers, also those that `vmap` and `function` compute with underneath;
    what `stop_recording` hides, forward mode and a rule's own captured values are not. A hook may
    be asked more than once for the same value, by a persistent tape and by derivatives of higher
    order. Nothing that a hook computes is recorded. PyTorch's counterpart is
    ``torch.autograd.graph.saved_tensors_hooks``.

    Examples
    --------
    Keep half the bytes, at half the digits:

    >>> import distgrad as dg
    >>> import numpy as np
    >>> x = dg.Variable([1.0, 2.0])
    >>> with dg.saved_values(lambda a: a.astype(np.float16), lambda a: a.astype(np.float32)):
    ...     with dg.GradientTape() as tape:
    ...         y = dg.sum(x * x)
    >>> tape.gradient(y, x).tolist()
    [2.0, 4.0]
    """
    for name, hook in (("pack", pack), ("unpack", unpack)):
        if not callable(hook):
            raise TypeError(
                f"saved_values: {name} is a {type(hook).__name__}; expected a function of one array"
            )
    return packing_in_force(_Hooks(pack, unpack))


class _Hooks(Packing):
    """The user's own functions."""

    def __init__(self, pack: Callable[[Any], Any], unpack: Callable[[Any], Any]) -> None:
        super().__init__()
        self._pack = pack
        self._unpack = unpack

    def pack(self, array: Any, kernels: Any, name: str, is_watched: bool) -> Any:
        """Return what the user's function makes of an array."""
        with _unheard():
            return self._pack(array)

    def unpack(self, packed: Any, kernels: Any, name: str) -> Any:
        """Return what the user's function makes of that."""
        with _unheard():
            return self._unpack(packed)


@contextmanager
def _unheard() -> Iterator[None]:
    """Record nothing, and pack nothing: a hook may compute with tensors."""
    listeners = LISTENERS.get()
    LISTENERS.set(())
    token = PACKING.set(None)
    try:
        yield
    finally:
        PACKING.reset(token)
        LISTENERS.set(listeners)


# --- arrays that somebody changed ---------------------------------------------------------------


def debug_mutations() -> AbstractContextManager[None]:
    """Raise where an array that a tape kept was changed in place before its rule read it.

    Raises
    ------
    MutationError
        In the backward pass, naming the operation, the user's line that ran it and the array.

    Notes
    -----
    ``dg.asarray`` shares the memory of a NumPy array, and a tape keeps arrays without copying them:
    if the program changes one between the forward and the backward pass, the gradient is silently
    that of other numbers. Here a checksum of each kept array is taken when it is recorded, and
    compared before it is read, which is slow. PyTorch counts the versions of its tensors, but does
    not see what NumPy does to their memory.

    Examples
    --------
    >>> import distgrad as dg
    >>> import numpy as np
    >>> buffer, w = np.ones(2, np.float32), dg.Variable([1.0, 2.0])
    >>> with dg.debug_mutations(), dg.GradientTape() as tape:
    ...     y = dg.sum(w * dg.asarray(buffer))
    >>> buffer[:] = 7.0
    >>> try:
    ...     tape.gradient(y, w)
    ... except dg.errors.MutationError as error:
    ...     print(error.operation)
    multiply
    """
    return packing_in_force(_Checksums())


class _Checked(NamedTuple):
    array: Any
    checksum: int
    line: str


class _Checksums(Packing):
    """Keeps arrays as they are, with a checksum and the line of the operation."""

    where = MEMORY
    shares = False  # each operation has a line of its own

    def pack(self, array: Any, kernels: Any, name: str, is_watched: bool) -> _Checked:
        """Return an array with its checksum."""
        return _Checked(array, checksum(kernels.backend.to_host(array)), user_line())

    def unpack(self, packed: _Checked, kernels: Any, name: str) -> Any:
        """Return the array, if it is what it was."""
        array = packed.array
        if checksum(kernels.backend.to_host(array)) != packed.checksum:
            raise MutationError(name, tuple(array.shape), str(array.dtype), packed.line)
        return array


def checksum(array: np.ndarray[Any, Any]) -> int:
    """Return the CRC-32 of an array's elements."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return zlib.crc32(flat.view(np.uint8).data) if flat.size else 0
