"""Layers of one table or matrix: Dense and Embedding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distgrad.dtypes import DTypeLike
from distgrad.errors import ShapeError
from distgrad.nn import initializers
from distgrad.nn.initializers import Initializer
from distgrad.nn.module import Module, as_input, width_of
from distgrad.nn.settings import count, function_or_none
from distgrad.ops.neural.kinks import relu
from distgrad.ops.picking.gathering import embedding
from distgrad.ops.products.affine import linear
from distgrad.ops.products.contractions import matmul


class Dense(Module):
    """``activation(x kernel + bias)`` over the last axis.

    Parameters
    ----------
    units : int
        How many outputs.
    activation : callable, optional
        Applied to the sum.
    bias : bool
        Whether to add a bias.
    kernel_initializer, bias_initializer : callable, optional
        See `initializers`; Glorot's even numbers, and zeros.
    dtype : dtype, optional
        Of the variables; that of the first input unless given.

    Attributes
    ----------
    kernel : Variable, shape (inputs, units)
        As in Keras; PyTorch's ``weight`` is transposed.
    bias : Variable, shape (units,)
        Or None.
    """

    def __init__(
        self,
        units: int,
        activation: Callable[[Any], Any] | None = None,
        *,
        bias: bool = True,
        kernel_initializer: Initializer | None = None,
        bias_initializer: Initializer | None = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        self.units = count("Dense", "units", units)
        self.activation = function_or_none("Dense", "activation", activation)
        self.kernel: Any = None
        self.bias: Any = None
        self.has_bias = bias
        self.kernel_initializer = kernel_initializer or initializers.glorot_uniform()
        self.bias_initializer = bias_initializer or initializers.zeros()
        self.dtype = dtype

    def call(self, x: Any) -> Any:
        """Return the outputs, of shape (..., units), for inputs of shape (..., inputs)."""
        if self.kernel is None:
            self._create(as_input(x))
        rectified = self.activation is relu
        try:
            y = linear(x, self.kernel, self.bias, activation="relu" if rectified else None)
        except ShapeError:  # looked at only now: what fits pays nothing for a good message
            width_of(self.path, "features", self.kernel, 0, as_input(x))
            raise
        return y if rectified or self.activation is None else self.activation(y)

    def _create(self, x: Any) -> None:
        if not x.shape:
            raise ShapeError(
                f"{self.path}: an input with an axis of features expected, got one of shape ()"
            )
        self.create(
            "kernel",
            (x.shape[-1], self.units),
            self.kernel_initializer,
            like=x,
            dtype=self.dtype,
        )
        if self.has_bias:
            self.create("bias", (self.units,), self.bias_initializer, like=x, dtype=self.dtype)


class Embedding(Module):
    """A vector for each identifier, from a table.

    Parameters
    ----------
    identifiers : int
        How many there are: 0 to identifiers - 1.
    width : int
        Of a vector.
    initializer : callable, optional
        See `initializers`; normal numbers of deviation 0.02 unless given.
    dtype : dtype, optional
        Of the table; the default one unless given.

    Attributes
    ----------
    table : Variable, shape (identifiers, width)
        Its gradient is an `IndexedSlices`.
    """

    def __init__(
        self,
        identifiers: int,
        width: int,
        *,
        initializer: Initializer | None = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        self.identifiers = count("Embedding", "identifiers", identifiers)
        self.width = count("Embedding", "width", width)
        self.table: Any = None
        self.initializer = initializer or initializers.normal()
        self.dtype = dtype

    def call(self, ids: Any) -> Any:
        """Return the vectors, of shape ``(*ids.shape, width)``; errors as of `nn.embedding`."""
        if self.table is None:
            shape = (self.identifiers, self.width)
            self.create("table", shape, self.initializer, dtype=self.dtype, like=as_input(ids))
        return embedding(self.table, ids)

    def logits(self, x: Any) -> Any:
        """Return the product of each vector in x with each of the table, for tied outputs.

        Parameters
        ----------
        x : Tensor, Variable or array, shape (..., width)
            Vectors.

        References
        ----------
        Press and Wolf, "Using the output embedding to improve language models", arXiv:1608.05859.
        """
        return matmul(x, self.table.T)
