"""SciPy's methods find minima of losses of variables, with the tape's derivatives."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import DTypeError, ShapeError
from distgrad.optimizers import LBFGS, NewtonCG
from distgrad.optimizers import second_order as subject

pytest.importorskip("scipy", reason="SciPy is not installed")


@pytest.mark.parametrize("method", [LBFGS(), NewtonCG()])
def test_the_minimum_of_rosenbrocks_valley_is_found(method):
    x, y = dg.Variable(np.array([-1.2])), dg.Variable(np.float64(1.0))
    seen = []

    found = method.minimize(
        lambda: dg.sum((1 - x) ** 2 + 100 * (y - x**2) ** 2),
        {"x": x, "y": y},
        callback=lambda step, loss: seen.append((step, loss)),
    )

    assert found.converged, found.message
    np.testing.assert_allclose([x.numpy()[0], y.numpy()], [1.0, 1.0], rtol=1e-5)
    assert found.loss < 1e-9
    assert [step for step, _ in seen] == list(range(1, found.iterations + 1))
    assert (found.products > 0) == isinstance(method, NewtonCG)


def test_newton_takes_one_step_to_the_minimum_of_a_quadratic():
    draw = np.random.default_rng(0)
    root = draw.normal(size=(4, 4))
    a, b = root @ root.T + np.eye(4), draw.normal(size=4)
    x = dg.Variable(np.zeros(4))

    NewtonCG(tolerance=1e-10).minimize(lambda: 0.5 * dg.vecdot(x, a @ x) - dg.vecdot(x, b), x)

    np.testing.assert_allclose(x.numpy(), np.linalg.solve(a, b), rtol=1e-6)


def test_newton_without_a_first_direction_says_that_it_did_not_converge(monkeypatch):
    x = dg.Variable(np.zeros(3))
    monkeypatch.setattr(subject._Problem, "product", lambda *_: np.full(3, np.nan))

    found = NewtonCG().minimize(lambda: dg.sum(dg.square(x - 2.0)), x)

    assert not found.converged
    assert found.gradient_norm == 4.0
    np.testing.assert_array_equal(x.numpy(), np.zeros(3))


def test_misuse_is_refused():
    x = dg.Variable([1.0, 2.0], name="x")

    with pytest.raises(ShapeError, match=r"the loss has shape \(2,\)"):
        LBFGS().minimize(lambda: x * x, x)
    with pytest.raises(DTypeError, match=r"'z' has dtype complex128"):
        LBFGS().minimize(lambda: 0.0, dg.Variable(1j, name="z", dtype="complex128"))
    with pytest.raises(TypeError, match=r"expected variables"):
        NewtonCG().minimize(lambda: 0.0, dg.asarray(1.0))


def test_without_scipy_the_message_says_how_to_get_it(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(subject, "import_module", missing)

    with pytest.raises(ImportError, match=r"LBFGS needs SciPy.*pip install scipy"):
        LBFGS().minimize(lambda: 0.0, dg.Variable(1.0))
