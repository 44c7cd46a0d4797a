"""Names that the face does not have."""

import pytest

import distgrad as dg
from distgrad.unknown_names import ELSEWHERE


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("concatenate", "distgrad.concat"),
        ("no_grad", "stop_recording"),
        ("elementwise_grad", r"distgrad\.vjp"),
        ("hessian_vector_product", r"distgrad\.hvp"),
        ("Variabel", "did you mean 'Variable'"),
        ("polyfit", r"np\.polyfit"),
        ("nothing_like_it", "has no attribute 'nothing_like_it'$"),
    ],
)
def test_the_error_says_where_the_name_of_another_library_is(name, hint):
    with pytest.raises(AttributeError, match=hint):
        getattr(dg, name)


def test_the_hints_are_for_names_that_are_not_there():
    assert not [name for name in ELSEWHERE if hasattr(dg, name)]


def test_bfloat16_is_on_the_face_where_its_package_is_installed():
    pytest.importorskip("ml_dtypes")

    assert dg.asarray([1.0], dtype=dg.bfloat16).dtype == dg.bfloat16
