"""The laws that an operation's rules keep, each as a check of one sample on one backend.

For whoever adds an operation or writes a backend: run them over `distgrad.testing.samples`. Each
raises `AssertionError` with what was expected and what came.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

import distgrad as dg
from distgrad.backend.kernels import Kernels
from distgrad.backend.protocol import Backend
from distgrad.core.op import Spec
from distgrad.core.seam import apply
from distgrad.dtypes import as_dtype, is_complex, is_differentiable
from distgrad.eager import kernels_of
from distgrad.errors import TraceError
from distgrad.ops.picking.gathering import Rows
from distgrad.tape.records import kept
from distgrad.testing.gradients import rounding_tolerance
from distgrad.testing.inputs import HostArray, Invariants, Sample
from distgrad.vectorizing import vmap


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
        return self._like_output([_random(y, seed=100 * p + 1) for p, y in enumerate(self.outputs)])

    def random_tangents(self, chosen: Sequence[int]) -> list[HostArray | None]:
        """Return numbers in the shape and dtype of the chosen operands, None for the others."""
        return [
            _random(array, seed=2 + position) if position in chosen else None
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
        g = self._like_output([self.kernels.backend.asarray(c) for c in each_of(cotangent)])
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
        return self._like_output([self.host(each) for each in each_of(pushed)])

    def settled(self) -> tuple[HostArray, ...]:
        """Return what of the results is not left to the kernel's choice, see `Sample`."""
        hosts = [self.host(each) for each in self.outputs]
        if self.sample.invariants is None:
            return tuple(hosts)
        return tuple(np.asarray(each) for each in self.sample.invariants(np, *hosts))

    def _like_output(self, each: Sequence[Any]) -> Any:
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


# --- the laws ------------------------------------------------------------------------------------


def check_spec(sample: Sample, backend: str | Backend = "numpy") -> None:
    """Check that the rule for shape and dtype foretells the kernel's result."""
    done = call(sample, backend)
    specs = (spec_of(operand) for operand in done.arrays)
    try:
        expected = sample.op.spec(*specs, **sample.params)
    except TraceError:
        if sample.is_static:
            raise
        return  # only values tell how much there will be: no rule can foretell it
    wanted = (expected,) if sample.op.outputs == 1 else expected
    for given, foretold in zip(map(spec_of, done.outputs), wanted, strict=True):
        if given.dtype != foretold.dtype or (sample.is_static and given.shape != foretold.shape):
            raise AssertionError(
                f"{sample}: the spec rule says {foretold}, the kernel gives {given}"
            )


def check_agreement(sample: Sample, backend: str | Backend, reference: str = "numpy") -> None:
    """Check that kernel, VJP and JVP give on a backend what they give on NumPy, dtypes included."""
    done, expected = call(sample, backend), call(sample, reference)
    for given, wanted in zip(done.outputs, expected.outputs, strict=True):
        if spec_of(given) != spec_of(wanted):
            raise AssertionError(
                f"{sample}: the result is {spec_of(given)}, on {reference} it is {spec_of(wanted)}"
            )
    for given, wanted in zip(done.settled(), expected.settled(), strict=True):
        assert_close(given, wanted, f"{sample}: result", sample.scale)
    if not sample.sources:
        return
    if sample.invariants is not None:
        _check_settled_derivatives(done, expected, sample.invariants)
        return
    needs = _mask(sample, sample.sources)
    cotangent = expected.random_cotangent()
    pairs = zip(done.pull(cotangent, needs), expected.pull(cotangent, needs), strict=True)
    for position, (given, wanted) in enumerate(pairs):
        if wanted is not None:
            assert_close(given, wanted, f"{sample}: cotangent of operand {position}")
    tangents = expected.random_tangents(sample.sources)
    moved = zip(each_of(done.push(tangents)), each_of(expected.push(tangents)), strict=True)
    for given, wanted in moved:
        assert_close(given, wanted, f"{sample}: tangent")


def _check_settled_derivatives(done: Call, expected: Call, invariants: Invariants) -> None:
    """Check the derivatives of what is settled; those of phases depend on which a kernel chose."""
    sample = done.sample
    tangents = [t for t in expected.random_tangents(sample.sources) if t is not None]
    cotangents = [_random(each, seed=100 + n) for n, each in enumerate(expected.settled())]
    derivatives = [
        _settled_derivatives(each, invariants, tangents, cotangents) for each in (done, expected)
    ]
    for what, given, wanted in zip(("cotangent", "tangent"), *derivatives, strict=True):
        for number, (one, other) in enumerate(zip(given, wanted, strict=True)):
            assert_close(one.numpy(), other.numpy(), f"{sample}: {what} {number}")


def _settled_derivatives(
    done: Call, invariants: Invariants, tangents: Any, cotangents: Any
) -> tuple[Any, Any]:
    """Return the cotangents of a call's sources and the tangents of what is settled of it."""
    sample, asarray = done.sample, done.kernels.backend.asarray
    arrays: list[Any] = list(done.arrays)
    own = [dg.asarray(arrays[place]) for place in sample.sources]

    def settled(*sources: Any) -> list[Any]:
        for place, each in zip(sample.sources, sources, strict=True):
            arrays[place] = each
        return [*invariants(dg, *each_of(apply(sample.op, *arrays, **sample.params)))]

    pullback = dg.vjp(settled, *own)[1]
    pulled = pullback([dg.asarray(asarray(each)) for each in cotangents])
    return pulled, dg.jvp(settled, own, [dg.asarray(asarray(each)) for each in tangents])[1]


def check_composition(sample: Sample, backend: str | Backend = "numpy") -> None:
    """Check that the composition of other operations gives what the kernel does."""
    done = call(sample, backend)
    if sample.op.compose is None:
        raise ValueError(f"{sample.op.name} is not composed of other operations")
    composed = sample.op.compose(done.kernels, *done.arrays, **sample.params)
    for given, wanted in zip(each_of(composed), done.outputs, strict=True):
        assert_close(done.host(given), done.host(wanted), f"{sample}: composition")
        if spec_of(given) != spec_of(wanted):
            raise AssertionError(
                f"{sample}: composed it is {spec_of(given)}, by the kernel {spec_of(wanted)}"
            )


def check_adjoint(sample: Sample, backend: str | Backend = "numpy") -> None:
    """Check that JVP and VJP are adjoint: <u, J v> = <J* u, v>, for every choice of operands."""
    done = call(sample, backend)
    cotangent = done.random_cotangent()
    for chosen in _choices(sample):
        tangents = done.random_tangents(chosen)
        pushed = each_of(done.push(tangents))
        for tangent, output in zip(pushed, done.outputs, strict=True):
            if spec_of(tangent) != spec_of(output):
                raise AssertionError(
                    f"{sample}: tangents of the operands {chosen} give {spec_of(tangent)}; the "
                    f"output is {spec_of(output)}"
                )
        pulled = done.pull(cotangent, _mask(sample, chosen))
        products = zip(each_of(cotangent), pushed, strict=True)
        forward = np.concatenate([_terms(*each) for each in products])
        backward = [_terms(pulled[position], tangents[position]) for position in chosen]
        terms = np.concatenate([forward, *(-each for each in backward)])
        # The products are sums; what they round away is relative to the sum of all magnitudes.
        allowed = rounding_tolerance(np.dtype(terms.dtype)) * max(1.0, float(np.abs(terms).sum()))
        if not abs(float(terms.sum())) <= allowed:
            raise AssertionError(
                f"{sample}: for the operands {chosen} <u, Jv> is {forward.sum():.9g} and <J*u, v> "
                f"is {sum(each.sum() for each in backward):.9g}; expected the same"
            )


def check_keep(sample: Sample, backend: str | Backend = "numpy") -> None:
    """Check that the VJP needs no more than a tape keeps, whatever operands are followed."""
    done = call(sample, backend)
    cotangent = done.random_cotangent()
    everything = _mask(sample, sample.sources)
    expected = done.pull(cotangent, everything)
    for position in sample.sources:
        given, operand = expected[position], done.arrays[position]
        if given is None or given.shape != tuple(operand.shape):
            raise AssertionError(
                f"{sample}: the cotangent of operand {position} has the shape "
                f"{None if given is None else given.shape}; expected {tuple(operand.shape)}"
            )
    for chosen in _choices(sample):
        needs = _mask(sample, chosen)
        for held in (needs, everything):
            pulled = done.pull(cotangent, needs, held)
            for position in chosen:
                what = f"{sample}: cotangent of operand {position}, keeping for {held}"
                assert_close(pulled[position], expected[position], what)


def check_batching(sample: Sample, *, one_by_one: bool = False) -> None:
    """Check that the batching rule gives what a loop over examples does.

    Every choice of operands has a batch axis of three examples, which differ; it runs on NumPy.

    Parameters
    ----------
    sample : Sample
        The call.
    one_by_one : bool
        Whether the operation may do without a rule, and compute the examples one by one.
    """
    places = [p for p, x in enumerate(sample.operands) if isinstance(x, np.ndarray)]
    for count in range(1, len(places) + 1):
        for chosen in combinations(places, count):
            _check_batched(sample, chosen, one_by_one)


def _check_batched(sample: Sample, chosen: Sequence[int], one_by_one: bool) -> None:
    # An array and its reverse: of the same values, so as fit for the operation.
    examples = [
        [x, np.flip(x).copy(), x] if place in chosen else x
        for place, x in enumerate(sample.operands)
    ]

    def results(*batched: Any) -> list[Any]:
        rest = iter(batched)
        operands = [next(rest) if p in chosen else x for p, x in enumerate(sample.operands)]
        outputs = each_of(apply(sample.op, *operands, **sample.params))
        return [*outputs] if sample.invariants is None else [*sample.invariants(dg, *outputs)]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if one_by_one else "error", UserWarning)
        whole = vmap(results)(*(dg.asarray(np.stack(examples[place])) for place in chosen))
    for number in range(3):
        expected = results(*(dg.asarray(examples[place][number]) for place in chosen))
        for given, wanted in zip(whole, expected, strict=True):
            what = f"{sample}: example {number} of a batch of the operands {chosen}"
            assert_close(given[number].numpy(), wanted.numpy(), what)


# --- comparisons and directions -------------------------------------------------------------------


def assert_close(given: Any, expected: Any, what: str, scale: float = 0.0) -> None:
    """Check that two arrays agree in shape, and in value up to rounding in the narrower dtype.

    What may be rounded away is relative to the greatest value expected, and to `scale`.
    """
    given, expected = np.asarray(given), np.asarray(expected)
    if given.shape != expected.shape:
        raise AssertionError(f"{what}: shape {given.shape}; expected {expected.shape}")
    floating = [a.dtype for a in (given, expected) if is_differentiable(a.dtype)]
    tolerance = max((rounding_tolerance(dtype) for dtype in floating), default=0.0)
    finite = np.abs(expected[np.isfinite(expected)])
    np.testing.assert_allclose(
        given,
        expected,
        rtol=tolerance,
        atol=tolerance * float(finite.max(initial=scale)),
        err_msg=what,
    )


def spec_of(value: Any) -> Any:
    """Return shape and dtype of an array of any backend; a Python scalar stays what it is."""
    if not hasattr(value, "shape"):
        return value
    return Spec(tuple(value.shape), as_dtype(value.dtype))


def _choices(sample: Sample) -> Iterator[tuple[int, ...]]:
    """Yield every choice of one or more of the operands that have derivatives."""
    for count in range(1, len(sample.sources) + 1):
        yield from combinations(sample.sources, count)


def _mask(sample: Sample, chosen: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(position in chosen) for position in range(len(sample.operands)))


def _random(array: Any, seed: int) -> HostArray:
    dtype = as_dtype(array.dtype)
    generator = np.random.default_rng(seed)
    numbers = generator.uniform(-1, 1, array.shape)
    if is_complex(dtype):
        numbers = numbers + 1j * generator.uniform(-1, 1, array.shape)
    return np.asarray(numbers).astype(dtype)


def _terms(a: Any, b: Any) -> HostArray:
    """Return the terms of the real inner product of two arrays."""
    return np.asarray(np.real(np.conj(a) * b)).ravel()
