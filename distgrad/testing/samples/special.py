"""Samples of the special functions; intervals keep away from their poles."""

from __future__ import annotations

from collections.abc import Iterator

from distgrad.testing.inputs import ANY, Interval, Sample, integers, layouts, pairs, values

_POSITIVE: Interval = (0.4, 3.0)
_INSIDE: Interval = (0.25, 0.8)  # of the unit interval

_UNARY: dict[str, Interval] = {
    **dict.fromkeys("exp2 exp10 cosm1".split(), ANY),
    "cbrt": _POSITIVE,
    **dict.fromkeys("gamma gammaln digamma".split(), (0.6, 3.5)),
    **dict.fromkeys("erfcx erfi dawsn ndtr log_ndtr fresnel_sin fresnel_cos".split(), ANY),
    "erfinv": (-0.85, 0.8),
    "erfcinv": (0.3, 1.6),
    **dict.fromkeys("ndtri logit".split(), _INSIDE),
    "ndtri_exp": (-3.0, -0.2),
    **dict.fromkeys("j0 j1 i0 i1".split(), (-4.1, 4.0)),
    **dict.fromkeys("i0e i1e".split(), (-11.0, 10.0)),  # the kink is between two of the values
    **dict.fromkeys("y0 y1 k0 k1 k0e k1e".split(), (0.7, 3.0)),
    "entr": _POSITIVE,
    "exp1": (0.6, 2.5),
    "expi": (0.6, 2.5),
    "spence": (0.5, 2.2),
    **dict.fromkeys("ellipk ellipe".split(), (-0.8, 0.7)),
    "wrightomega": ANY,
}


def _unary() -> Iterator[Sample]:
    for name, interval in _UNARY.items():
        for layout, x in layouts(interval):
            yield Sample(name, layout, (x,))
    yield Sample("digamma", "negative", (values((3,), -1.65, -1.35),))
    yield Sample("expi", "negative", (values((3, 4), -2.5, -0.6),))
    for name in ("ellipk", "ellipe"):
        yield Sample(name, "around-0", (values((3, 4), -0.02, 0.02),))
    yield Sample("spence", "around-1", (values((3, 4), 0.98, 1.02),))
    for name in ("j1", "i1"):
        yield Sample(name, "around-0", (values((3, 4), -0.02, 0.02),))


_BINARY: dict[str, tuple[Interval, Interval]] = {
    **dict.fromkeys("beta betaln".split(), ((0.6, 2.5), (0.7, 3.0))),
    "binom": ((3.2, 5.0), (0.6, 2.4)),
    "poch": ((0.8, 2.5), (0.5, 2.2)),
    "xlogy": (ANY, _POSITIVE),
    "xlog1py": (ANY, (-0.5, 2.0)),
    **dict.fromkeys("rel_entr kl_div".split(), (_POSITIVE, (0.5, 2.7))),
    **dict.fromkeys("gammainc gammaincc".split(), ((0.6, 3.5), _POSITIVE)),
}


def _binary() -> Iterator[Sample]:
    for name, intervals in _BINARY.items():
        for variant, a, b in pairs(*intervals):
            yield Sample(name, variant, (a, b))


# Parameters in which there is no derivative: plain numbers, and an array of integers.
_OF_PARAMETERS: dict[str, tuple[tuple[float, ...], Interval]] = {
    "zeta": ((2.5,), _POSITIVE),
    **dict.fromkeys("betainc betaincc betaincinv".split(), ((1.7, 2.4), _INSIDE)),
    **dict.fromkeys("jv iv".split(), ((1.5,), _POSITIVE)),
    "ive": ((1.5,), (0.3, 1.2)),  # below its greatest value, where its slope is a small difference
    **dict.fromkeys("yv kv kve".split(), ((1.5,), (0.7, 3.0))),
    "expn": ((2,), _POSITIVE),
}


def _of_parameters() -> Iterator[Sample]:
    for name, (parameters, interval) in _OF_PARAMETERS.items():
        for layout, x in layouts(interval):
            yield Sample(name, layout, (*parameters, x))
        counts = integers((3, 1), 2, 5)
        yield Sample(
            name, "integer-exponents", (*(counts for _ in parameters), values((4,), *interval))
        )
    yield Sample("jv", "around-0", (2, values((5,), -0.02, 0.02)))
    yield Sample("expn", "order-0", (0, values((5,), *_POSITIVE)))


def _moving_with_the_shape() -> Iterator[Sample]:
    """Shapes below and above 1, numbers below and above the shape: all ways of integrating."""
    shapes = (0.4, 4.5)
    for order in (1, 2):
        for variant, a, x in pairs(shapes, _POSITIVE):
            for name in ("gammainc_ratio", "gammainc_slope"):
                yield Sample(name, f"{variant}-{order}", (a, x), {"order": order})
    for name in ("gammaincinv", "gammainccinv"):
        yield Sample(name, "same", (values((3, 4), *shapes), values((3, 4), *_INSIDE)))
        yield Sample(name, "outer", (values((3, 1), *shapes), values((4,), *_INSIDE)))
        for layout, p in layouts(_INSIDE):
            yield Sample(name, layout, (1.7, p))
    number, before = values((3, 4), *_POSITIVE), values((3, 4), *shapes)
    yield Sample("gamma_carried", "nowhere", (number, before, before))
    yield Sample("gamma_carried", "elsewhere", (number, before, values((3, 4), 0.6, 4.0, seed=1)))
    yield Sample("gamma_carried", "outer", (number[0], before[:, :1], 1.5))
    yield Sample("gamma_carried", "empty", (number[:0], before[:0], before[0]))


FAMILIES = (_unary, _binary, _of_parameters, _moving_with_the_shape)
TAKE_COMPLEX: frozenset[str] = frozenset()
