"""Attention with several heads, as a layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distgrad.dtypes import DTypeLike
from distgrad.errors import ShapeError
from distgrad.nn.dense import Dense
from distgrad.nn.initializers import Initializer
from distgrad.nn.module import Module, as_input
from distgrad.nn.settings import count
from distgrad.ops.neural.attention import scaled_dot_product_attention
from distgrad.ops.shaping.structure import expand_dims, permute_dims, reshape


class MultiHeadAttention(Module):
    """Attention of queries to keys, in several heads side by side.

    Parameters
    ----------
    heads : int
        How many there are.
    head_width : int, optional
        Of queries, keys and values in a head; by default the width of the queries is shared out.
    width : int, optional
        Of the result; that of the queries unless given.
    causal : bool
        Whether query i attends to keys 0 ... i only.
    bias : bool
        Whether the projections have biases.
    kernel_initializer : callable, optional
        For the projections, see `Dense`.
    dtype : dtype, optional
        Of the variables; that of the first input unless given.

    Attributes
    ----------
    query, key, value, output : Dense
        The projections; their variables are at ``.../query/kernel`` and so on.

    References
    ----------
    Vaswani et al., "Attention is all you need", arXiv:1706.03762, section 3.2.2.
    """

    def __init__(
        self,
        heads: int,
        head_width: int | None = None,
        *,
        width: int | None = None,
        causal: bool = False,
        bias: bool = True,
        kernel_initializer: Initializer | None = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        self.heads = count("MultiHeadAttention", "heads", heads)
        self.head_width = head_width
        self.width = width
        self.causal = causal

        # How wide they are is known at the first call.
        def projection() -> Dense:
            return Dense(0, bias=bias, kernel_initializer=kernel_initializer, dtype=dtype)

        self.query = projection()
        self.key = projection()
        self.value = projection()
        self.output = projection()

    def call(self, query: Any, key: Any = None, value: Any = None, *, mask: Any = None) -> Any:
        """Return what the queries attend to.

        Parameters
        ----------
        query : Tensor, Variable or array, shape (..., T, width)
            Attends to itself if there is no key.
        key : Tensor, Variable or array, shape (..., S, any width), optional
            What is attended to.
        value : Tensor, Variable or array, shape (..., S, any width), optional
            What is returned of it; the key unless given.
        mask : Tensor or array, shape broadcast with (..., T, S), optional
            Bool, True where a query may attend, or floating, added to the scores; the same for all
            heads. With one axis more, that of the heads before T, for each head.

        Returns
        -------
        Tensor, shape (..., T, width)
        """
        query = as_input(query)
        key = query if key is None else as_input(key)
        value = key if value is None else as_input(value)
        if query.ndim < 2 or not query.ndim == key.ndim == value.ndim:
            raise ShapeError(
                f"{self.path}: query, key and value (..., steps, features) expected, got shapes "
                f"{tuple(query.shape)}, {tuple(key.shape)} and {tuple(value.shape)}"
            )
        if not self.output.units:
            self._settle(query.shape[-1])
        if mask is not None:
            mask = as_input(mask)
            if 2 < mask.ndim <= query.ndim:
                mask = expand_dims(mask, axis=-3)
        y = scaled_dot_product_attention(
            self._split(self.query(query)),
            self._split(self.key(key)),
            self._split(self.value(value)),
            mask=mask,
            causal=self.causal,
        )
        joined = permute_dims(y, _heads_swapped(y.ndim))
        return self.output(reshape(joined, (*joined.shape[:-2], -1)))

    def _settle(self, features: int) -> None:
        """Say how wide the projections are."""
        if self.head_width is None:
            if features % self.heads:
                raise ShapeError(
                    f"{self.path}: queries of {features} features are to form {self.heads} heads; "
                    "expected a multiple of that, or head_width="
                )
            self.head_width = features // self.heads
        for each in (self.query, self.key, self.value):
            each.units = self.heads * self.head_width
        self.output.units = self.width or features

    def _split(self, x: Any) -> Any:
        """Return (..., steps, heads * width) as (..., heads, steps, width)."""
        parts = reshape(x, (*x.shape[:-1], self.heads, -1))
        return permute_dims(parts, _heads_swapped(parts.ndim))


def _heads_swapped(ndim: int) -> Sequence[int]:
    """Return the order of axes in which heads and steps have changed places."""
    return (*range(ndim - 3), ndim - 2, ndim - 3, ndim - 1)
