"""Samples of the activation functions, and of what pulls cotangents back through them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from distgrad.testing.inputs import ANY, SHIFTED, Sample, layouts, pairs, values

# Values stay off the kinks; wider intervals reach all branches.
_WIDE = (-4.1, 4.0)
_PARAMS: dict[str, dict[str, Any]] = {
    **{name: {} for name in "gelu gelu_tanh silu mish softsign".split()},
    **{name: {} for name in "relu relu6 hard_sigmoid hard_swish hard_tanh".split()},
    "elu": {"alpha": 0.7, "scale": 1.3},
    "celu": {"alpha": 0.7},
    "leaky_relu": {"slope": 0.3},
    "hard_shrink": {"bound": 0.53},
    "soft_shrink": {"bound": 0.53},
    "threshold": {"above": 0.41, "value": -1.5},
}


def _activations() -> Iterator[Sample]:
    for name in ("erf", "erfc"):
        for layout, x in layouts(ANY):
            yield Sample(name, layout, (x,))
        for end in (0.4, 4.3, 8.2):  # one branch of the approximation after the other
            yield Sample(name, f"up-to-{end}", (values((4, 5), -end, 0.97 * end),))
    for name, params in _PARAMS.items():
        for layout, x in layouts(ANY):
            yield Sample(name, layout, (x,), params)
        yield Sample(name, "wide", (values((4, 5), *_WIDE),), params)
        pulling = f"{name}_vjp"
        for variant, g, kept in pairs(ANY, SHIFTED):
            if not isinstance(g, (int, float)) and not isinstance(kept, (int, float)):
                # What has no curvature has the cotangent's dtype, whatever the other operand's.
                named = "alike" if variant == "same" else variant
                yield Sample(pulling, named, (g, kept), params)
        wide = (values((4, 5), *ANY), values((4, 5), *_WIDE))
        yield Sample(pulling, "wide", wide, params)


FAMILIES = (_activations,)
TAKE_COMPLEX: frozenset[str] = frozenset()
