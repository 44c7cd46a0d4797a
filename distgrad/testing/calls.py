"""A sample's call on a backend: what the kernel and the rules make of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distgrad.backend.kernels import Kernels
from distgrad.backend.protocol import Backend
from distgrad.dtypes import as_dtype, is_complex
from distgrad.eager import kernels_of
from distgrad.ops.picking.gathering import Rows
from distgrad.tape.records import kept
from distgrad.testing.inputs import HostArray, Sample


@dataclass(frozen=True, eq=False)
class Call:
    """A sample on the arrays of a backend, and what its rules make of it.

    Attributes
    ----------
    sample : Sample
        The call.
    kernels : Kernels
        The vocabulary of the backend.
    arrays : tuple
        The operands as the backend's arrays; Python scalars stay what they are.
    output : array or tuple of array
        The kernel's result; a tuple where the operation has several.
    """

    sample: Sample
    kernels: Kernels
    arrays: tuple[Any, ...]
    output: Any

    @property
    def outputs(self) -> tuple[Any, ...]:
        """The results, also where there is only one."""
        return each_of(self.output)

    def random_cotangent(self) -> Any:
        """Return numbers in the shape and dtype of the output, the same on every backend."""
        return self.like_output(
            [random_like(y, seed=100 * p + 1) for p, y in enumerate(self.outputs)]
        )

    def random_tangents(self, chosen: Sequence[int]) -> list[HostArray | None]:
        """Return numbers in the shape and dtype of the chosen operands, None for the others."""
        return [
            random_like(array, seed=2 + position) if position in chosen else None
            for position, array in enumerate(self.arrays)
        ]

    def pull(
        self, cotangent: Any, needs: Sequence[int], held: Sequence[int] | None = None
    ) -> list[HostArray | None]:
        """Return the cotangents of the operands, by the VJP, from nothing but what a tape keeps.

        Parameters
        ----------
        cotangent : numpy.ndarray or tuple of numpy.ndarray
            Of the output.
        needs : sequence of int
            For each operand, whether its cotangent is wanted.
        held : sequence of int, optional
            For each operand, whether the tape follows it; by default those that are wanted.
        """
        op = self.sample.op
        if op.vjp is None:
            raise ValueError(f"{op.name} has no VJP")
        xs, y = kept(op, needs if held is None else held, self.arrays, self.output)
        g = self.like_output([self.kernels.backend.asarray(c) for c in each_of(cotangent)])
        pulled = op.vjp(self.kernels, g, y, xs, self.sample.params, needs)
        return [
            self.host(each.dense(self.kernels) if isinstance(each, Rows) else each)
            if need
            else None
            for each, need in zip(pulled, needs, strict=True)
        ]

    def push(self, tangents: Sequence[HostArray | None]) -> Any:
        """Return the tangent of the output, by the JVP; None stands for a zero tangent."""
        op = self.sample.op
        if op.jvp is None:
            raise ValueError(f"{op.name} has no JVP")
        own = [None if t is None else self.kernels.backend.asarray(t) for t in tangents]
        pushed = op.jvp(self.kernels, own, self.output, self.arrays, self.sample.params)
        return self.like_output([self.host(each) for each in each_of(pushed)])

    def settled(self) -> tuple[HostArray, ...]:
        """Return what of the results is not left to the kernel's choice, see `Sample`."""
        hosts = [self.host(each) for each in self.outputs]
        if self.sample.invariants is None:
            return tuple(hosts)
        return tuple(np.asarray(each) for each in self.sample.invariants(np, *hosts))

    def like_output(self, each: Sequence[Any]) -> Any:
        """Return parts as the output has them: one alone where it is no tuple."""
        return each[0] if self.sample.op.outputs == 1 else tuple(each)

    def host(self, array: Any) -> HostArray:
        """Return one of the backend's arrays, or a scalar, as a NumPy array."""
        backend = self.kernels.backend
        return np.asarray(backend.to_host(array) if backend.owns(array) else array)


def call(sample: Sample, backend: str | Backend = "numpy") -> Call:
    """Return a sample's call on a backend, computed by the kernel."""
    kernels = kernels_of(backend)
    arrays = tuple(
        kernels.backend.asarray(operand) if isinstance(operand, np.ndarray) else operand
        for operand in sample.operands
    )
    kernel = kernels.table.get(sample.op) or kernels.resolve(sample.op)
    output = kernel(*arrays, **sample.params)
    return Call(sample, kernels, arrays, output if sample.op.outputs == 1 else tuple(output))


def each_of(value: Any) -> tuple[Any, ...]:
    """Return the parts of a result, of its cotangent or tangent; one is a tuple of one."""
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def random_like(array: Any, seed: int) -> HostArray:
    """Return numbers between -1 and 1 in the shape and dtype of an array of any backend."""
    dtype = as_dtype(array.dtype)
    generator = np.random.default_rng(seed)
    numbers = generator.uniform(-1, 1, array.shape)
    if is_complex(dtype):
        numbers = numbers + 1j * generator.uniform(-1, 1, array.shape)
    return np.asarray(numbers).astype(dtype)
