"""Products by cuBLAS itself, with a library of the host's that has its functions."""

import ctypes
import importlib.util
import threading
from types import SimpleNamespace

import numpy as np
import pytest

if importlib.util.find_spec("cupy") is None:
    pytest.skip("CuPy is not installed", allow_module_level=True)

from distgrad.dtypes import as_dtype
from distgrad_cupy.cublas import CublasError
from distgrad_cupy.products import Products

# What cuBLAS does, by its reference: matrices column by column, one step between them.
CUBLAS = r"""
#include <complex>
#include <cstddef>
#include "host_bfloat16.h"
typedef _Float16 half;
static void* the_stream; static void* the_room; static size_t room_bytes; static int status;
extern "C" int made = 0;
extern "C" void fail_with(int s) { status = s; }
extern "C" int cublasCreate_v2(void** handle) { *handle = (void*)(size_t)(++made); return 0; }
extern "C" int cublasSetStream_v2(void*, void* s) { the_stream = s; the_room = 0; return 0; }
extern "C" int cublasSetWorkspace_v2(void*, void* p, size_t n) {
    the_room = p; room_bytes = n; return 0;
}
extern "C" size_t stream_in_use() { return (size_t)the_stream; }
extern "C" size_t room_in_use() { return (size_t)the_room; }

template <class In, class Out, class Sum>
static int multiply(int ta, int tb, int m, int n, int k, const void* alpha, const void* a, int lda,
        long long sa, const void* b, int ldb, long long sb, const void* beta, void* c, int ldc,
        long long sc, int count) {
    if (lda < (ta ? k : m) || ldb < (tb ? n : k) || ldc < m) return 7;  // invalid value
    for (int z = 0; z < count; ++z)
        for (int i = 0; i < m; ++i)
            for (int j = 0; j < n; ++j) {
                Sum sum = 0;
                for (int l = 0; l < k; ++l)
                    sum += (Sum)((const In*)a)[z * sa + (ta ? l + (long long)i * lda
                                                           : i + (long long)l * lda)] *
                           (Sum)((const In*)b)[z * sb + (tb ? j + (long long)l * ldb
                                                           : l + (long long)j * ldb)];
                Out& out = ((Out*)c)[z * sc + i + (long long)j * ldc];
                const Sum old = *(const Sum*)beta == (Sum)0 ? (Sum)0 : *(const Sum*)beta * (Sum)out;
                out = (Out)(*(const Sum*)alpha * sum + old);
            }
    return 0;
}
#define GIVEN ta, tb, m, n, k, alpha, a, lda, sa, b, ldb, sb, beta, c, ldc, sc, count
extern "C" int cublasGemmStridedBatchedEx(void* handle, int ta, int tb, int m, int n, int k,
        const void* alpha, const void* a, int atype, int lda, long long sa, const void* b,
        int btype, int ldb, long long sb, const void* beta, void* c, int ctype, int ldc,
        long long sc, int count, int compute, int algorithm) {
    if (status) return status;
    if (!handle || !the_room || atype != btype || algorithm != -1) return 7;
    if (atype == 0 && ctype == 0 && compute == 68) return multiply<float, float, float>(GIVEN);
    if (atype == 1 && ctype == 1 && compute == 70) return multiply<double, double, double>(GIVEN);
    if (atype == 2 && ctype == 2 && compute == 68) return multiply<half, half, float>(GIVEN);
    if (atype == 2 && ctype == 0 && compute == 68) return multiply<half, float, float>(GIVEN);
    typedef bfloat16 B;
    if (atype == 14 && ctype == 14 && compute == 68) return multiply<B, B, float>(GIVEN);
    if (atype == 14 && ctype == 0 && compute == 68) return multiply<B, float, float>(GIVEN);
    typedef std::complex<float> C; typedef std::complex<double> Z;
    if (atype == 4 && ctype == 4 && compute == 68) return multiply<C, C, C>(GIVEN);
    if (atype == 5 && ctype == 5 && compute == 70) return multiply<Z, Z, Z>(GIVEN);
    return 15;  // not supported
}
"""


def module():
    """Return NumPy as CuPy shows itself to the products."""
    names = "empty matmul ascontiguousarray broadcast_to".split()
    found = SimpleNamespace(**{name: getattr(np, name) for name in names})
    stream = SimpleNamespace(ptr=1234)
    found.cuda = SimpleNamespace(
        Device=lambda: SimpleNamespace(id=0), get_current_stream=lambda: stream
    )
    return found


@pytest.fixture
def library(compiled_cxx):
    found = compiled_cxx(CUBLAS)
    found.stream_in_use.restype = found.room_in_use.restype = ctypes.c_size_t
    return found


@pytest.fixture
def products(library):
    return Products(module(), lambda: library)


def layouts(array):
    """Return an array as it may lie in memory: plain, turned, in parts of others, repeated."""
    wide = np.full((*array.shape[:-1], array.shape[-1] + 3), np.nan, array.dtype)
    wide[..., 1:-2] = array
    tall = np.full((*array.shape[:-2], array.shape[-2] + 2, array.shape[-1]), np.nan, array.dtype)
    tall[..., 1:-1, :] = array
    every_other = np.repeat(array, 2, axis=-1)[..., ::2]
    backwards = array[..., ::-1, :].copy()[..., ::-1, :]
    turned = np.ascontiguousarray(array.swapaxes(-1, -2)).swapaxes(-1, -2)
    found = [array, turned, wide[..., 1:-2], tall[..., 1:-1, :], every_other, backwards]
    if array.ndim > 2:  # heads beside examples, another order of the stack, one matrix for many
        found += [np.moveaxis(np.moveaxis(array, 0, -2).copy(), -2, 0), array[::-1].copy()[::-1]]
    if array.ndim > 3:
        found.append(array.swapaxes(0, 1).copy().swapaxes(0, 1))
    return found


SHAPES = [
    ((3, 4), (4, 5)),
    ((1, 4), (4, 1)),
    ((3, 1), (1, 5)),
    ((1, 1), (1, 1)),
    ((2, 3, 4), (2, 4, 5)),
    ((2, 3, 4), (4, 5)),
    ((3, 4), (2, 4, 5)),
    ((2, 1, 3, 4), (1, 3, 4, 5)),
    ((2, 3, 1, 4), (2, 3, 4, 1)),
    ((2, 3, 3, 4), (2, 3, 4, 5)),
    ((2, 3, 3, 4), (1, 1, 4, 5)),
]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_products_of_any_layout_are_numpys(shapes, products):
    rng = np.random.default_rng(3)
    room = products.workspace()

    names = ("float32", "float64", "float16", "bfloat16", "complex64", "complex128")
    for dtype in map(as_dtype, names):
        a, b = (rng.integers(-4, 5, shape).astype(dtype) for shape in shapes)
        for one in layouts(a):
            for other in layouts(b):
                with products.own(room):
                    found = products.matmul(one, other)
                    into = np.full_like(found, np.nan)
                    assert products.matmul(one, other, out=into) is into
                np.testing.assert_array_equal(found, a @ b)
                np.testing.assert_array_equal(into, a @ b)
                assert found.dtype == dtype


@pytest.mark.parametrize(
    "shapes", [((4,), (4, 5)), ((3, 4), (4,)), ((4,), (4,)), ((2, 3, 4), (4,))]
)
def test_vectors_are_multiplied_as_numpy_does(shapes, products):
    a, b = (np.arange(np.prod(shape), dtype=np.float32).reshape(shape) for shape in shapes)

    with products.own(products.workspace()):
        found = products.matmul(a, b)

    np.testing.assert_array_equal(found, a @ b)


@pytest.mark.parametrize("shapes", [((0, 4), (4, 5)), ((3, 0), (0, 5)), ((2, 0, 4), (4, 5))])
def test_empty_products_are_zeros(shapes, products, library):
    a, b = (np.ones(shape, np.float32) for shape in shapes)

    with products.own(products.workspace()):
        found = products.matmul(a, b)

    np.testing.assert_array_equal(found, a @ b)
    assert ctypes.c_int.in_dll(library, "made").value == 0


def test_an_array_to_write_that_lies_otherwise_is_written(products):
    a, b = np.ones((3, 4), np.float32), np.ones((4, 5), np.float32)
    out = np.zeros((3, 10), np.float32)[:, ::2]

    with products.own(products.workspace()):
        assert products.matmul(a, b, out=out) is out

    np.testing.assert_array_equal(out, np.full((3, 5), 4))


def test_shapes_that_do_not_fit_are_refused(products):
    with (
        products.own(products.workspace()),
        pytest.raises(ValueError, match=r"expected, got \(3, 4\) @ \(5, 6\)"),
    ):
        products.matmul(np.ones((3, 4)), np.ones((5, 6)))


def test_the_workspace_of_a_graph_is_made_for_its_first_product(products, library):
    x = np.ones((2, 2), np.float32)

    with products.own() as rooms:
        assert rooms == []
        products.matmul(x, x)
        products.matmul(x, x)

    (room,) = rooms
    assert library.room_in_use() == room.ctypes.data


def test_it_works_on_the_current_stream_in_the_workspace_given(products, library):
    room = products.workspace()
    x = np.ones((2, 2), np.float32)

    with products.own(room):
        products.matmul(x, x)
    assert library.stream_in_use() == 1234
    assert library.room_in_use() == room.ctypes.data

    products.wide_matmul(x.astype(np.float16), x.astype(np.float16))
    assert library.room_in_use() not in (0, room.ctypes.data)
    assert ctypes.c_int.in_dll(library, "made").value == 1


def test_each_stream_has_a_workspace_and_each_thread_where_one_number_stands_for_its_own(
    products, library
):
    x = np.ones((2, 2), np.float16)
    stream = products._module.cuda.get_current_stream()
    rooms = []

    def work(ptr):
        stream.ptr = ptr
        products.wide_matmul(x, x)
        rooms.append(library.room_in_use())

    def in_a_thread(ptr):
        thread = threading.Thread(target=work, args=(ptr,))
        thread.start()
        thread.join(timeout=30)

    for ptr in (1234, 5678, 1234, 2, 2):  # 2 is the stream of whichever thread asks
        work(ptr)
    for ptr in (1234, 2):
        in_a_thread(ptr)

    first, second, again, own, own_again, threads_first, threads_own = rooms
    assert first == again == threads_first
    assert own == own_again
    assert len({first, second, own, threads_own}) == 4


def test_streams_without_end_do_not_hold_workspaces_without_end(products, monkeypatch):
    monkeypatch.setattr("distgrad_cupy.products._MOST_ROOMS", 3)
    x = np.ones((2, 2), np.float16)
    made = []
    workspace = products.workspace
    monkeypatch.setattr(products, "workspace", lambda: made.append(workspace()) or made[-1])
    stream = products._module.cuda.get_current_stream()

    for stream.ptr in (100, 200, 300, 100, 400, 100):  # 200 has not been used for longest
        products.wide_matmul(x, x)

    assert len(made) == 4
    assert [room.size for room in products._rooms.values()] == [32 << 20] * 3
    assert [ptr for _, ptr, _ in products._rooms] == [300, 400, 100]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_multiplied_into_single(dtype, products):
    a = np.full((1, 3), 255.9, as_dtype(dtype))

    found = products.wide_matmul(a, a.T)

    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, a.astype(np.float32) @ a.T.astype(np.float32))


def test_without_capturing_products_are_cupys(products, library):
    x = np.ones((2, 2), np.float32)
    library.fail_with(13)

    np.testing.assert_array_equal(products.matmul(x, x), x @ x)
    np.testing.assert_array_equal(products.wide_matmul(x, x), x @ x)
    assert products.matmul(x.astype(np.int32), x.astype(np.int32)).dtype == np.int32


def test_cupy_broadcasts_no_stack_with_a_negative_step(products, monkeypatch):
    one, many = np.arange(15).reshape(1, 1, 3, 5), np.arange(40).reshape(4, 5, 2)
    own, given = products._module.matmul, []
    monkeypatch.setattr(products._module, "matmul", lambda *each: given.extend(each) or own(*each))

    found = products.matmul(one[::-1], many[:, ::-1])

    np.testing.assert_array_equal(found, one @ many[:, ::-1])
    assert min(step for each in given for step in each.strides) >= 0


@pytest.mark.parametrize("name", ["float32", "float64", "complex64"])
def test_stacks_that_cupy_would_copy_go_to_cublas_as_they_are(name, products, monkeypatch):
    rng = np.random.default_rng(4)
    q, k = (rng.integers(-4, 5, (2, 5, 3, 4)).astype(name).swapaxes(1, 2) for _ in range(2))
    one = rng.integers(-4, 5, (4, 6)).astype(name)
    scores, mixed = q @ k.swapaxes(-1, -2), np.ascontiguousarray(q) @ one
    q, keys = np.ascontiguousarray(q), np.ascontiguousarray(k).swapaxes(-1, -2)
    for refused in ("matmul", "broadcast_to"):
        monkeypatch.setattr(products._module, refused, lambda *_: pytest.fail("asked for"))

    np.testing.assert_array_equal(products.matmul(q, keys), scores)
    np.testing.assert_array_equal(products.matmul(q, one), mixed)


@pytest.mark.parametrize("name", ["float32", "complex128"])
def test_stacks_that_lie_alike_and_those_that_cublas_refuses_are_cupys(name, products, library):
    library.fail_with(15)
    x = (np.arange(24).reshape(2, 3, 4) * (1 + 2j if name[0] == "c" else 1)).astype(name)
    turned = x.swapaxes(-1, -2)

    np.testing.assert_array_equal(products.matmul(x, turned.copy()), x @ turned)
    np.testing.assert_array_equal(products.matmul(x, turned), x @ turned)


def test_stacks_of_float16_are_not_widened(products, monkeypatch):
    monkeypatch.setattr(products._module, "matmul", lambda *_: pytest.fail("asked for"))
    x = np.ones((3, 2, 2), np.float16)

    np.testing.assert_array_equal(products.matmul(x, x), x @ x)


def test_where_cublas_refuses_half_precision_is_widened_first(products, library):
    x = np.ones((2, 2), np.float16)
    library.fail_with(15)

    found = products.wide_matmul(x, x)

    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, 2)


def test_products_of_bfloat16_are_those_of_cublas_also_without_capturing(products, library):
    stack = np.ones((3, 2, 2), as_dtype("bfloat16"))

    found = products.matmul(stack, stack)

    assert found.dtype == stack.dtype
    np.testing.assert_array_equal(found.astype(float), 2)
    assert ctypes.c_int.in_dll(library, "made").value == 1


@pytest.mark.parametrize("shapes", [((4,), (4,)), ((1, 4), (4, 1)), ((4,), (4, 1))], ids=str)
def test_vectors_of_float16_are_not_multiplied_in_it(shapes, products, library):
    def in_half(a, b):  # as CuPy does, by a product of elements and their sum
        return (a.ravel() * b.ravel()).cumsum(dtype=np.float16)[-1:]

    products._module.matmul = in_half
    numbers = np.float16([[300, 300, 1, 1], [300, -300, 2, 2]])
    a, b = (np.reshape(x, shape) for x, shape in zip(numbers, shapes, strict=True))

    found = products.matmul(a, b)

    np.testing.assert_array_equal(found, np.full(np.matmul(a, b).shape, 4))
    assert found.dtype == np.float16


def test_where_cublas_refuses_bfloat16_products_are_those_of_single_rounded(products, library):
    x = np.full((2, 2), 1.5, as_dtype("bfloat16"))
    out = np.zeros_like(x)
    library.fail_with(15)

    assert products.matmul(x, x).dtype == x.dtype
    assert products.matmul(x, x, out=out) is out
    np.testing.assert_array_equal(out.astype(float), 4.5)


def test_while_capturing_an_error_of_cublas_is_raised(products, library):
    x = np.ones((2, 2), np.float32)
    library.fail_with(14)

    with products.own(products.workspace()), pytest.raises(CublasError, match="gives status 14"):
        products.matmul(x, x)


def test_without_the_library_everything_but_capturing_works():
    def missing():
        raise OSError("libcublas.so.12: cannot open shared object file")

    products = Products(module(), missing)
    x = np.ones((2, 2), np.float16)

    assert products.wide_matmul(x, x).dtype == np.float32
    with (
        products.own(products.workspace()),
        pytest.raises(CublasError, match="cuBLAS is not found: libcublas"),
    ):
        products.matmul(x, x)
