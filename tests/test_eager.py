"""Eager evaluation: which backend computes, and what is said when a computation cannot be done."""

import subprocess
import sys
import threading

import array_api_strict
import numpy as np
import pytest

import distgrad as dg
from distgrad import backends_in_force
from distgrad.backend.kit import ArrayModuleBackend
from distgrad.core import Kind, Op, apply
from distgrad.errors import DTypeError, MixedBackendError, ShapeError, UnknownBackendError


@pytest.fixture(scope="module")
def strict():
    return ArrayModuleBackend("strict", array_api_strict)


@pytest.fixture(autouse=True)
def the_process_keeps_its_backend(monkeypatch):
    """Undo what a test sets for the process."""
    monkeypatch.setattr(backends_in_force, "_process_default", None)
    monkeypatch.delenv("DISTGRAD_BACKEND", raising=False)


# --- backends in force ----------------------------------------------------------------------------


def test_new_arrays_are_numpys_unless_told_otherwise():
    assert dg.asarray([1.0]).backend.name == "numpy"
    assert dg.zeros((2, 3)).backend.name == "numpy"


def test_use_backend_holds_within_its_block(strict):
    with dg.use_backend(strict) as chosen:
        inside = dg.ones((2, 3))
        with dg.use_backend("numpy"):
            innermost = dg.asarray(1.0)
        again = dg.asarray([1.0])

    assert chosen is strict
    assert [t.backend.name for t in (inside, innermost, again)] == ["strict", "numpy", "strict"]
    assert dg.asarray(1.0).backend.name == "numpy"


def test_use_backend_ends_with_an_error(strict):
    with pytest.raises(KeyError), dg.use_backend(strict):
        raise KeyError("from the user's code")

    assert dg.asarray(1.0).backend.name == "numpy"


def test_use_backend_holds_in_its_own_thread_alone(strict):
    found = []
    with dg.use_backend(strict):
        thread = threading.Thread(target=lambda: found.append(dg.asarray(1.0).backend.name))
        thread.start()
        thread.join(timeout=30)

    assert found == ["numpy"]


def test_set_backend_holds_for_the_process_and_use_backend_goes_before_it(strict):
    dg.set_backend(strict)
    assert dg.asarray(1.0).backend is strict

    with dg.use_backend("numpy"):
        assert dg.asarray(1.0).backend.name == "numpy"
    dg.set_backend("numpy")
    assert dg.asarray(1.0).backend.name == "numpy"


def test_the_environment_chooses_where_nobody_else_does(monkeypatch, strict):
    monkeypatch.setenv("DISTGRAD_BACKEND", "nowhere")
    with pytest.raises(UnknownBackendError, match=r"'nowhere'.*numpy"):
        dg.asarray(1.0)

    dg.set_backend("numpy")
    assert dg.asarray(1.0).backend.name == "numpy"


@pytest.mark.parametrize("choose", [dg.set_backend, lambda name: dg.use_backend(name).__enter__()])
def test_an_unknown_backend_is_refused_at_once_with_a_guess(choose):
    with pytest.raises(UnknownBackendError, match=r"'numpi'.*did you mean 'numpy'"):
        choose("numpi")


def test_installed_backends_are_listed_without_being_loaded():
    assert "numpy" in dg.list_backends()
    assert "cupy" in dg.list_backends()


def test_an_array_stays_on_its_backend_whatever_is_in_force(strict):
    here = dg.asarray(np.ones(3))
    with dg.use_backend(strict):
        assert (here * 2.0).backend.name == "numpy"
        assert dg.sin(here).backend.name == "numpy"


def test_the_default_dtype_is_set_for_the_process(monkeypatch):
    monkeypatch.setattr("distgrad.dtypes._default", np.dtype("float32"))
    dg.set_default_dtype("float64")

    assert dg.get_default_dtype() == np.float64
    assert dg.asarray(1.0).dtype == np.float64
    assert dg.asarray(1j).dtype == np.complex128
    assert dg.zeros(3).dtype == np.float64
    assert dg.Variable(1.0).dtype == np.float64
    assert (dg.asarray([1, 2]) * 0.5).dtype == np.float64
    assert (dg.asarray(np.ones(3, "float32")) * 0.5).dtype == np.float32


# --- errors ---------------------------------------------------------------------------------------


def test_shapes_that_do_not_broadcast_are_named_with_the_operation():
    with pytest.raises(ShapeError, match=r"add: shapes \(3, 4\) and \(5,\) do not broadcast"):
        dg.asarray(np.ones((3, 4))) + np.ones(5)


def test_the_users_mistake_is_explained_on_every_backend(strict):
    with pytest.raises(ShapeError, match=r"matmul: .*\(4, 3\) @ \(4, 2\)"):
        dg.matmul(
            dg.asarray(np.ones((4, 3)), backend=strict), dg.asarray(np.ones((4, 2)), backend=strict)
        )


def test_an_error_is_raised_without_the_kernels_own_in_its_way():
    with pytest.raises(ShapeError) as caught:
        dg.asarray([1.0, 2.0]) + dg.asarray([1.0, 2.0, 3.0])

    assert isinstance(caught.value, ValueError)  # what a user of NumPy would catch
    assert caught.value.__suppress_context__


def test_an_error_that_no_rule_explains_is_the_kernels_own():
    def compose(xp, x):
        raise ValueError("the kernel's own words")

    op = Op("fails_always", Kind.OPAQUE, lambda x: x, compose=compose)
    with pytest.raises(ValueError, match="the kernel's own words"):
        apply(op, dg.asarray(1.0))


def test_functions_take_arrays_lists_and_numbers_where_no_tensor_is():
    assert dg.add(1.0, 2.0).numpy() == 3.0
    assert dg.add(1.0, 2.0).dtype == np.float32
    assert dg.sum([1.0, 2.0, 3.0]).numpy() == 6.0
    assert dg.sum(np.arange(4)).numpy() == 6
    assert dg.multiply(np.ones(3, "float16"), 2.0).dtype == np.float16
    assert dg.where(True, 1, 0.5).numpy() == 1.0
    assert dg.less(1, 0.5).numpy() == np.False_


# --- identities -----------------------------------------------------------------------------------


def test_every_result_has_an_identity_of_its_own():
    x = dg.asarray(1.0)
    keys = {value.key for value in (x, x + 0.0, +x, x * 1.0, x.reshape(()), dg.stop_gradient(x))}

    assert len(keys) == 6
    assert 0 not in keys


def test_zero_dimensional_results_are_arrays_of_their_backend(strict):
    for backend in ("numpy", strict):
        t = dg.sum(dg.asarray(np.ones(3), backend=backend))

        assert t.backend.owns(t.array)
        assert t.shape == ()


# --- operands of several backends -----------------------------------------------------------------


@pytest.mark.parametrize("mix", [lambda a, b: a + b, lambda a, b: dg.where(a > 0, a, b), dg.matmul])
def test_mixing_backends_names_both_and_the_way_across(strict, mix):
    here, there = dg.asarray(np.ones((3, 3))), dg.asarray(np.ones((3, 3)), backend=strict)

    for a, b in ((here, there), (there, here), (dg.Variable(here), there)):
        with pytest.raises(MixedBackendError, match=r"\.to\(backend=") as caught:
            mix(a, b)
        assert "'numpy'" in str(caught.value)
        assert "'strict'" in str(caught.value)


def test_raw_arrays_of_another_backend_are_not_moved_silently(strict):
    here, there = np.ones(3), array_api_strict.ones(3)
    assert dg.asarray(there, backend=strict).backend is strict

    for a, b in (
        (dg.asarray(here), there),
        (there, dg.asarray(here)),
        (dg.asarray(there, backend=strict), here),
        (here, dg.asarray(there, backend=strict)),
        (there, here),
    ):
        with pytest.raises(MixedBackendError, match=r"'numpy'|'strict'"):
            dg.add(a, b)


def test_numbers_and_lists_belong_to_no_backend(strict):
    t = dg.asarray(np.ones(3), backend=strict)

    for other in (2.0, 2, np.float64(2.0), np.array(2.0), [1.0, 2.0, 3.0]):
        assert (t * other).backend is strict


def test_a_tensor_moves_to_a_backend_by_name_or_object_and_stays_where_it_is(strict):
    t = dg.asarray(np.array([1.0, 2.0]))
    there = t.to(backend=strict)

    assert there.backend is strict
    assert there.to(backend="numpy").tolist() == [1.0, 2.0]
    assert t.to(backend="numpy") is t
    with pytest.raises(dg.errors.UnknownBackendError, match="nowhere"):
        t.to(backend="nowhere")


def test_a_tensor_moves_between_two_backends_of_one_array_type(strict):
    other = ArrayModuleBackend("other", array_api_strict)
    t = dg.asarray(np.array([1.0, 2.0]), backend=strict)

    assert t.to(backend=other).backend is other


# --- entering -------------------------------------------------------------------------------------


def test_numbers_and_lists_get_the_default_dtypes():
    assert dg.asarray(1.0).dtype == np.float32
    assert dg.asarray([1.0, 2]).dtype == np.float32
    assert dg.asarray([1, 2]).dtype == np.int64
    assert dg.asarray([True]).dtype == np.bool_
    assert dg.asarray(1j).dtype == np.complex64
    assert dg.asarray([]).dtype == np.float32


def test_numpy_values_keep_their_dtype():
    assert dg.asarray(np.float64(1.0)).dtype == np.float64
    assert dg.asarray(np.ones(3, "int16")).dtype == np.int16
    assert dg.asarray([np.float64(1.0), np.float64(2.0)]).dtype == np.float64


def test_a_numpy_array_shares_its_memory_unless_it_is_copied():
    array = np.ones(3)

    assert np.shares_memory(dg.asarray(array).array, array)
    assert not np.shares_memory(dg.asarray(array, copy=True).array, array)


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("text", "str"),
        (None, "NoneType"),
        (object(), "object"),
        ([[1, 2], [3]], "ragged"),
        (["a", "b"], "no numbers"),
        ({"a": 1}, "dict"),
        (np.array(["a"]), "<U1"),
        (np.array([object()]), "object"),
        (np.array(["2020-01-01"], "datetime64[D]"), "datetime64"),
    ],
)
def test_what_holds_no_numbers_is_refused(value, word):
    with pytest.raises(DTypeError, match=word):
        dg.asarray(value)


def test_lists_that_hold_tensors_mix_with_numbers_that_do_not_widen_them():
    x = dg.asarray(2.0)

    assert dg.asarray([[x, 1], [2, 3.5]]).tolist() == [[2.0, 1.0], [2.0, 3.5]]
    assert dg.asarray([[x, 1], [2, 3.5]]).dtype == np.float32
    assert dg.asarray([x, np.float64(1.0)]).dtype == np.float64
    assert dg.asarray([dg.asarray([1.0, 2.0]), [3.0, 4.0]]).tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_lists_of_tensors_of_unlike_shapes_are_refused():
    with pytest.raises(dg.errors.ShapeError):
        dg.asarray([dg.asarray([1.0, 2.0]), dg.asarray([1.0, 2.0, 3.0])])


def test_threads_that_compute_first_at_once_get_the_same_backend():
    program = """
import threading
import distgrad as dg
gate, found = threading.Barrier(8), []
def first():
    gate.wait()
    found.append(dg.asarray(1.0).kernels)
threads = [threading.Thread(target=first) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(set(map(id, found))))
"""

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert done.stdout == "1\n", done.stderr
