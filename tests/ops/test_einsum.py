"""dg.einsum: NumPy's values and true derivatives, whatever the letters, in good order."""

import sys

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import ShapeError
from distgrad.testing.gradients import check_gradients
from distgrad.testing.inputs import values

CASES = [
    ("ij,jk->ik", [(3, 4), (4, 5)]),
    ("ij,jk", [(3, 4), (4, 5)]),
    ("ij , jk -> ki", [(3, 4), (4, 5)]),
    ("ij,jk,kl->il", [(3, 4), (4, 5), (5, 2)]),
    ("ba", [(2, 3)]),
    ("ij->", [(2, 3)]),
    ("ii", [(4, 4)]),
    ("ii->i", [(4, 4)]),
    ("iij->j", [(3, 3, 2)]),
    ("aab,bcc->ac", [(2, 2, 3), (3, 4, 4)]),
    ("i,i,i", [(3,), (3,), (3,)]),
    ("i,j,k->kji", [(2,), (3,), (4,)]),
    ("i,->i", [(3,), ()]),
    ("ij,ij", [(3, 4), (3, 1)]),
    ("...ij,...jk->...ik", [(2, 1, 3, 4), (5, 4, 2)]),
    ("i...->...", [(3, 4)]),
    ("...a,...a", [(2, 3, 4), (3, 4)]),
    ("...,...", [(2, 3), (3,)]),
    ("abc,abd,bcd->ad", [(2, 3, 4), (2, 3, 5), (3, 4, 5)]),
    ("ij,jk->ik", [(3, 0), (0, 5)]),
]


def factors(shapes):
    return [values(shape, -1.0, 1.1, seed=place) for place, shape in enumerate(shapes)]


@pytest.mark.parametrize(("subscripts", "shapes"), CASES, ids=str)
def test_values_are_numpys(subscripts, shapes):
    arrays = factors(shapes)

    given = dg.einsum(subscripts, *map(dg.asarray, arrays))

    np.testing.assert_allclose(given.numpy(), np.einsum(subscripts, *arrays), atol=1e-13)


@pytest.mark.parametrize(("subscripts", "shapes"), CASES, ids=str)
def test_derivatives_agree_with_differences_to_second_order(subscripts, shapes):
    check_gradients(
        lambda *xs: dg.einsum(subscripts, *(x * x + x for x in xs)),
        [dg.asarray(array) for array in factors(shapes)],
    )


@pytest.mark.parametrize("optimize", [False, True, "greedy", "optimal"])
@pytest.mark.parametrize("has_opt_einsum", [False, True])
def test_the_order_of_products_does_not_change_the_result(monkeypatch, optimize, has_opt_einsum):
    if not has_opt_einsum:
        monkeypatch.setitem(sys.modules, "opt_einsum", None)
    else:
        pytest.importorskip("opt_einsum")
    subscripts, shapes = "ab,bc,cd,de->ea", [(2, 5), (5, 3), (3, 4), (4, 2)]
    arrays = factors(shapes)

    given = dg.einsum(subscripts, *map(dg.asarray, arrays), optimize=optimize)

    np.testing.assert_allclose(given.numpy(), np.einsum(subscripts, *arrays), atol=1e-13)


def test_a_good_order_is_found(monkeypatch):
    monkeypatch.setitem(sys.modules, "opt_einsum", None)
    shapes = [(30, 2), (2, 30), (30, 2)]
    x = [dg.Variable(array) for array in factors(shapes)]

    with dg.GradientTape() as tape:
        dg.einsum("ab,bc,cd->ad", *x)

    sizes = [record[0].name for record in tape.records]
    assert sizes == ["contract", "contract"]
    assert tape.records[0][4][0].shape == (2, 30)  # the two small ones meet first


def test_axes_may_be_named_by_integers():
    a, b = factors([(3, 4), (4, 5)])
    x, y = dg.asarray(a), dg.asarray(b)

    np.testing.assert_allclose(dg.einsum(x, [0, 1], y, [1, 2], [2, 0]).numpy(), (a @ b).T)
    np.testing.assert_allclose(dg.einsum(x, [0, 1], y, [1, 2]).numpy(), a @ b)
    np.testing.assert_allclose(dg.einsum(x, [Ellipsis, 0], [Ellipsis]).numpy(), a.sum(-1))


def test_the_dtype_stays():
    assert dg.einsum("ij->", dg.ones((2, 3), dtype="int8")).dtype == np.int8
    assert dg.einsum("i,ij->", dg.ones(2, dtype="int8"), dg.ones((2, 3), dtype="int8")).dtype == (
        np.int8
    )
    assert dg.einsum("ij,jk", dg.ones((2, 3)), dg.ones((3, 2))).dtype == np.float32


def test_a_mapped_einsum_equals_a_loop():
    a, b = map(dg.asarray, factors([(5, 3, 4), (4, 3)]))

    def chain(a):
        return dg.einsum("ij,jk,ki->i", a, b, dg.sin(a) @ a.mT)

    mapped = dg.vmap(chain)(a)

    for i in range(5):
        np.testing.assert_allclose(mapped[i].numpy(), chain(a[i]).numpy(), rtol=1e-11)


@pytest.mark.parametrize(
    ("subscripts", "shapes", "message"),
    [
        ("ij,jk->ik", [(3, 4)], "names 2 factors, but 1 are given"),
        ("ij->i", [(3, 4, 5)], "'ij' of 'ij->i' does not fit factor 0"),
        ("ij,jk->ik", [(3, 4), (5, 2)], "axis 'j' of .* has the lengths 4 and 5"),
        ("ij->ik", [(3, 4)], "expected each letter once"),
        ("ij->ii", [(3, 3)], "expected each letter once"),
        ("i...j->i", [(3,)], "does not fit factor 0"),
    ],
)
def test_letters_that_do_not_fit_are_refused(subscripts, shapes, message):
    with pytest.raises(ShapeError, match=message):
        dg.einsum(subscripts, *(dg.ones(shape) for shape in shapes))
