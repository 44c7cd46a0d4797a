"""The vocabulary on one backend's raw arrays: `kernels.sin(array)`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any

from distgrad.backend.protocol import Backend
from distgrad.core.op import Op
from distgrad.dtypes import complex64, complex128
from distgrad.errors import MissingKernelError


class Kernels:
    """The namespace in which rules compute on raw arrays: an attribute for each operation.

    A kernel is looked up at its first use; one that the backend lacks is composed of others.

    Parameters
    ----------
    backend : Backend
        Whose arrays.
    vocabulary : mapping of str to Op
        Every operation by its name.
    """

    def __init__(self, backend: Backend, vocabulary: Mapping[str, Op]) -> None:
        self.backend = backend
        self.vocabulary = vocabulary
        self.table: dict[Op, Callable[..., Any]] = {}

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__") or name not in self.vocabulary:
            raise AttributeError(f"no operation is called {name!r}")
        kernel = self.resolve(self.vocabulary[name])
        setattr(self, name, kernel)
        return kernel

    def __repr__(self) -> str:
        return f"<kernels of {self.backend.name}>"

    def resolve(self, op: Op) -> Callable[..., Any]:
        """Return the kernel of an operation, or its composition.

        Raises
        ------
        MissingKernelError
            If the backend has no kernel and the operation no composition.
        """
        kernel = self.backend.kernel(op.name)
        if kernel is None:
            if op.compose is None:
                raise MissingKernelError(
                    f"{op.name}: the backend {self.backend.name!r} has no kernel of this name, "
                    "and the operation is not composed of others"
                )
            kernel = partial(op.compose, self)
        self.table[op] = kernel
        return kernel

    @cached_property
    def array_type(self) -> type:
        """The class of the backend's arrays."""
        return type(self.backend.asarray(0.0))

    @cached_property
    def complex_dtypes(self) -> frozenset[Any]:
        """The complex dtypes as the backend's arrays spell them."""
        return frozenset(
            self.backend.asarray(0.0, dtype=dtype).dtype for dtype in (complex64, complex128)
        )
