"""The checks of an operation's rules find rules that break the laws."""

from dataclasses import replace

import numpy as np
import pytest

from distgrad.core import Keep, Spec
from distgrad.ops import VOCABULARY
from distgrad.testing import rules
from distgrad.testing.inputs import Sample, values


@pytest.fixture
def product(monkeypatch):
    """Return a function that replaces parts of the operation multiply, and gives a sample of it."""

    def broken(**parts):
        op = replace(VOCABULARY["multiply"], **parts)
        monkeypatch.setitem(VOCABULARY, "multiply", op)
        return Sample("multiply", "broken", (values((3, 4), 0.5, 2.0), values((4,), 0.5, 2.0)))

    return broken


def test_a_wrong_shape_rule_is_found(product):
    sample = product(spec=lambda a, b: Spec(a.shape[::-1], a.dtype))

    with pytest.raises(
        AssertionError, match=r"spec rule says .*\(4, 3\).* kernel gives .*\(3, 4\)"
    ):
        rules.check_spec(sample)


def test_a_wrong_dtype_rule_is_found(product):
    sample = product(spec=lambda a, b: Spec(a.shape, np.dtype("float32")))

    with pytest.raises(AssertionError, match="float32"):
        rules.check_spec(sample)


def test_a_vjp_that_reads_what_is_not_kept_is_found(product):
    sample = product(keep=Keep.SHAPES)

    with pytest.raises((AttributeError, TypeError, AssertionError)):
        rules.check_keep(sample)


def test_a_cotangent_in_the_shape_of_the_output_is_found(product):
    sample = product(vjp=lambda xp, g, y, xs, params, needs: (g * xs[1], g * xs[0]))

    with pytest.raises(AssertionError, match=r"cotangent of operand 1 .*\(3, 4\).*expected \(4,\)"):
        rules.check_keep(sample)


def test_a_jvp_that_is_not_adjoint_to_the_vjp_is_found(product):
    sample = product(jvp=lambda xp, tangents, y, xs, params: 0 * y)

    with pytest.raises(AssertionError, match=r"<u, Jv> is 0 and <J\*u, v> is"):
        rules.check_adjoint(sample)


def test_a_wrong_composition_is_found(product):
    sample = product(compose=lambda xp, a, b: a + b)

    with pytest.raises(AssertionError, match="composition"):
        rules.check_composition(sample)


def test_a_wrong_batching_rule_is_found(product):
    sample = product(batch=lambda xp, size, batched, arrays, params: arrays[0] * arrays[1] * 2)

    with pytest.raises(AssertionError, match="example 0 of a batch of the operands"):
        rules.check_batching(sample)


def test_a_missing_batching_rule_is_found(product):
    sample = product(batch=lambda *arguments: NotImplemented)

    with pytest.raises(UserWarning, match="has no batching rule"):
        rules.check_batching(sample)


def test_a_rule_that_is_wrong_in_half_precision_is_found(product):
    def vjp(xp, g, y, xs, params, needs):
        return g * xs[1] * (1.1 if g.dtype == np.float16 else 1), (g * xs[0]).sum(axis=0)

    with pytest.raises(AssertionError, match="cotangent of operand 0 in float16"):
        rules.check_half(product(vjp=vjp), np.dtype("float16"))
