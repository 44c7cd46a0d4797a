"""Samples of moments, of norms with and without scale and shift, and of dropout."""

from __future__ import annotations

from collections.abc import Iterator

from distgrad.testing.inputs import ANY, SHIFTED, Sample, frozen, values

_EPSILON = {"epsilon": 0.01}


def _normalization() -> Iterator[Sample]:
    x = values((3, 4, 5), *ANY)
    for variant, axes in (
        ("all-axes", (0, 1, 2)),
        ("channels-last", (0, 1)),
        ("channels-second", (0, 2)),
        ("last", (2,)),
        ("negative", (-1, 0)),
        ("none", ()),
    ):
        yield Sample("moments", variant, (x,), {"axes": axes})
    yield Sample("moments", "line", (values((5,), *ANY),), {"axes": (0,)})
    yield Sample("moments", "of-one", (values((3, 1), *ANY),), {"axes": (1,)})
    yield Sample("moments", "strided", (values((8, 5), *ANY)[::-2, ::-1],), {"axes": (0,)})
    for variant, mean, variance, affine in (
        ("alike", (1, 1, 5), (1, 1, 5), ((1, 1, 5), (1, 1, 5))),
        ("scale-alike", (1, 1, 5), (1, 1, 5), ((1, 1, 5),)),
        ("moments-only", (1, 4, 1), (1, 4, 1), ()),
        ("groups", (3, 1, 5), (3, 1, 5), ((5,), (5,))),
        ("unlike", (1, 1, 5), (4, 1), ((3, 1, 1), (5,))),
    ):
        operands = [x, values(mean, *SHIFTED), values(variance, 0.3, 2.0)]
        operands += [values(each, *ANY, seed=place) for place, each in enumerate(affine)]
        yield Sample("normalize", variant, tuple(operands), _EPSILON)
        g = values(x.shape, *SHIFTED, seed=4)
        yield Sample("normalize_vjp", variant, (g, *operands), _EPSILON)
    for name, most in (("layer_norm", 2), ("rms_norm", 1)):
        for shape in ((3, 4, 5), (5,), (0, 5), (3, 2)):
            for count in range(most + 1):
                arrays = tuple(values(shape[-1:], *SHIFTED, seed=1 + n) for n in range(count))
                variant = f"{'x'.join(map(str, shape))}-affine{count}"
                row = values(shape, *ANY)
                g = values(shape, *SHIFTED, seed=4)
                yield Sample(name, variant, (row, *arrays), _EPSILON)
                yield Sample(f"{name}_vjp", variant, (g, row, *arrays), _EPSILON)
        strided = frozen(values((8, 5), *ANY)[::-2, ::-1])
        yield Sample(name, "strided", (strided, values((5,), *SHIFTED)), _EPSILON)


def _batch_norm() -> Iterator[Sample]:
    for variant, shape, axes in (
        ("channels-last", (3, 4, 5), (0, 1)),
        ("channels-second", (3, 4, 5), (0, 2)),
        ("negative", (3, 4, 5), (-1, 0)),
        ("all-axes", (3, 5), (0, 1)),
        ("none", (5,), ()),
    ):
        kept = {axis % len(shape) for axis in axes}
        column = tuple(1 if axis in kept else n for axis, n in enumerate(shape))
        params = {"axes": axes, **_EPSILON}
        for count in range(3 if variant == "channels-last" else 1):
            operands = [values(shape, *ANY)]
            operands += [values(column, *SHIFTED, seed=1 + n) for n in range(count)]
            yield Sample("batch_norm", f"{variant}-affine{count}", tuple(operands), params)
    affine = (values((1, 5), *SHIFTED), values((1, 5), *ANY))
    over_rows = {"axes": (0,), **_EPSILON}
    strided = frozen(values((8, 5), *ANY)[::-2, ::-1])
    yield Sample("batch_norm", "strided", (strided, *affine), over_rows)
    yield Sample("batch_norm", "no-columns", (values((3, 0), *ANY),), over_rows)


def _dropping() -> Iterator[Sample]:
    for variant, shape, choices in (
        ("each", (3, 4), (3, 4)),
        ("rows", (3, 4), (3, 1)),
        ("raised", (3, 4), (4,)),
        ("empty", (0, 4), (0, 4)),
    ):
        kept = frozen(values(choices, -1.0, 1.0) > -0.4)
        yield Sample("dropout", variant, (values(shape, *ANY), kept), {"scale": 1.5})


FAMILIES = (_normalization, _batch_norm, _dropping)
TAKE_COMPLEX: frozenset[str] = frozenset()
