"""Samples of Fourier transforms: even and odd lengths, one axis and several."""

from __future__ import annotations

from collections.abc import Iterator

from distgrad.testing.inputs import ANY, Sample, values


def _transforms() -> Iterator[Sample]:
    for name in ("fft", "ifft"):
        for norm in ("backward", "ortho", "forward"):
            yield Sample(name, norm, (values((3, 5), *ANY),), {"axes": (-1,), "norm": norm})
        for variant, axes in (("first-axis", (0,)), ("both-axes", (1, 0)), ("no-axis", ())):
            yield Sample(name, variant, (values((3, 4), *ANY),), {"axes": axes, "norm": "backward"})
        whole = {"axes": (0,), "norm": "backward"}
        yield Sample(name, "one", (values((1,), *ANY),), whole)
        yield Sample(name, "no-signals", (values((3, 0), *ANY),), whole)


def _real_transforms() -> Iterator[Sample]:
    for n in (1, 2, 5, 6):
        for norm in ("backward", "ortho", "forward"):
            params = {"axis": -1, "norm": norm}
            yield Sample(
                "rfft", f"{n}-{norm}", (values((3, n), *ANY),), params, takes_complex=False
            )
            bins = values((3, n // 2 + 1), *ANY)
            yield Sample("irfft", f"{n}-{norm}", (bins,), {"n": n} | params)
    first = {"axis": 0, "norm": "backward"}
    yield Sample("rfft", "first-axis", (values((5, 3), *ANY),), first, takes_complex=False)
    yield Sample("irfft", "first-axis", (values((3, 4), *ANY),), {"n": 5} | first)


FAMILIES = (_transforms, _real_transforms)
# Where a complex operand has a derivative.
TAKE_COMPLEX = frozenset("fft ifft irfft".split())
