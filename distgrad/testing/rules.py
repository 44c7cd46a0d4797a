"""The laws that an operation's rules keep, each as a check of one sample on one backend.

For whoever adds an operation or writes a backend: run them over `distgrad.testing.samples`. Each
raises `AssertionError` with what was expected and what came.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np

import distgrad as dg
from distgrad.backend.protocol import Backend
from distgrad.core.op import Spec
from distgrad.core.seam import apply
from distgrad.dtypes import DType, as_dtype, float32, is_differentiable
from distgrad.errors import TraceError
from distgrad.testing.calls import Call, call, each_of, random_like
from distgrad.testing.gradients import half_tolerance, rounding_tolerance
from distgrad.testing.inputs import HostArray, Invariants, Sample
from distgrad.vectorizing import vmap

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
    _check_alike(done, expected, assert_close)


def check_half(sample: Sample, dtype: DType, backend: str | Backend = "numpy") -> None:
    """Check that kernel, VJP and JVP give in half precision what they give in single, on NumPy.

    Parameters
    ----------
    sample : Sample
        The call; its values are rounded to the dtype for both.
    dtype : dtype
        float16 or bfloat16.
    backend : str or Backend
        What computes in half precision.
    """
    narrow = sample.cast(dtype)
    tolerance = half_tolerance(dtype)

    def compare(given: Any, expected: Any, what: str, scale: float = 0.0) -> None:
        wide = np.asarray(given).astype(np.asarray(expected).dtype)
        assert_close(wide, expected, f"{what} in {dtype}", max(scale, 1.0), tolerance)

    _check_alike(call(narrow, backend), call(narrow.cast(float32)), compare)


def _check_alike(done: Call, expected: Call, compare: Callable[..., None]) -> None:
    """Check results, cotangents and tangents of a call against those of another one."""
    sample = done.sample
    for given, wanted in zip(done.settled(), expected.settled(), strict=True):
        compare(given, wanted, f"{sample}: result", sample.scale)
    if not sample.sources:
        return
    if sample.invariants is not None:
        _check_settled_derivatives(done, expected, sample.invariants, compare)
        return
    needs = _mask(sample, sample.sources)
    cotangent = done.random_cotangent()
    same = [_alike(c, y) for c, y in zip(each_of(cotangent), expected.outputs, strict=True)]
    pulled = done.pull(cotangent, needs), expected.pull(expected.like_output(same), needs)
    for position, (one, other) in enumerate(zip(*pulled, strict=True)):
        if other is not None:
            compare(one, other, f"{sample}: cotangent of operand {position}")
    tangents = done.random_tangents(sample.sources)
    same = [_alike(t, x) for t, x in zip(tangents, expected.arrays, strict=True)]
    moved = zip(each_of(done.push(tangents)), each_of(expected.push(same)), strict=True)
    for given, wanted in moved:
        compare(given, wanted, f"{sample}: tangent")


def _alike(numbers: HostArray | None, array: Any) -> Any:
    return None if numbers is None else numbers.astype(as_dtype(array.dtype), copy=False)


def _check_settled_derivatives(
    done: Call, expected: Call, invariants: Invariants, compare: Callable[..., None]
) -> None:
    """Check the derivatives of what is settled; those of phases depend on which a kernel chose."""
    sample = done.sample
    tangents = [t for t in done.random_tangents(sample.sources) if t is not None]
    cotangents = [random_like(each, seed=100 + n) for n, each in enumerate(done.settled())]
    derivatives = [
        _settled_derivatives(each, invariants, tangents, cotangents) for each in (done, expected)
    ]
    for what, given, wanted in zip(("cotangent", "tangent"), *derivatives, strict=True):
        for number, (one, other) in enumerate(zip(given, wanted, strict=True)):
            compare(one.numpy(), other.numpy(), f"{sample}: {what} {number}")


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


def assert_close(
    given: Any, expected: Any, what: str, scale: float = 0.0, tolerance: float | None = None
) -> None:
    """Check that two arrays agree in shape, and in value up to rounding in the narrower dtype.

    What may be rounded away is relative to the greatest value expected, and to `scale`; how much,
    follows from the dtypes unless a tolerance is given.
    """
    given, expected = np.asarray(given), np.asarray(expected)
    if given.shape != expected.shape:
        raise AssertionError(f"{what}: shape {given.shape}; expected {expected.shape}")
    floating = [a.dtype for a in (given, expected) if is_differentiable(a.dtype)]
    if tolerance is None:
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


def _terms(a: Any, b: Any) -> HostArray:
    """Return the terms of the real inner product of two arrays."""
    return np.asarray(np.real(np.conj(a) * b)).ravel()
