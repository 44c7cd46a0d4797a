"""NumPy's kernels of convolution and pooling: bounded memory, threads, blocks of any size."""

import os
import sys
import threading
import tracemalloc

import numpy as np
import pytest

import distgrad as dg
from distgrad.testing import rules
from distgrad.testing.inputs import values
from distgrad.testing.samples import samples
from distgrad_numpy import compiled, convolution, onednn, pooling, threads
from distgrad_numpy.blocks import blocks_of

NAMES = (*convolution.KERNELS, *pooling.KERNELS)
SAMPLES = [sample for name in NAMES for sample in samples(name)]


@pytest.fixture(autouse=True)
def own_kernels():
    before = onednn.switch(False), compiled.switch(False)
    yield
    onednn.switch(before[0])
    compiled.switch(before[1])


def floats(*shape):
    return values(shape, -1.0, 1.0).astype(np.float32)


@pytest.fixture
def many_threads(monkeypatch):
    monkeypatch.setattr(threads, "available", lambda: 3)


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_smallest_blocks_on_many_threads_give_what_the_composition_gives(
    sample, monkeypatch, many_threads
):
    monkeypatch.setattr(convolution, "_BLOCK_BYTES", 1)
    monkeypatch.setattr(convolution, "_FEWEST_ROWS", 2)
    monkeypatch.setattr(convolution, "_CHANNELWISE_BYTES", 1)
    monkeypatch.setattr(pooling, "_BLOCK_BYTES", 1)

    rules.check_composition(sample)


def test_any_number_of_threads_gives_the_same_bits(monkeypatch):
    x, w, g = floats(9, 20, 21, 16), floats(3, 3, 16, 24), floats(9, 20, 21, 24)
    slide = ((1, 1), ((1, 1), (1, 1)), (1, 1), 1)

    def everything():
        return (
            convolution.conv(x, w, *slide),
            convolution.conv_transpose(g, w, (20, 21), *slide),
            convolution.conv_kernel_vjp(x, g, (3, 3), *slide),
        )

    alone = everything()
    for number in (2, 3, 5):
        monkeypatch.setattr(threads, "available", lambda number=number: number)
        for one, other in zip(alone, everything(), strict=True):
            np.testing.assert_array_equal(one, other)


def test_callers_on_several_threads_do_not_disturb_each_other(many_threads):
    xs = [floats(4, 15, 16, 8) * (1 + n) for n in range(4)]
    w = floats(3, 3, 8, 8)
    slide = ((1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    expected = [convolution.conv(x, w, *slide) for x in xs]
    wrong = []

    def work(place):
        for _ in range(20):
            if not np.array_equal(convolution.conv(xs[place], w, *slide), expected[place]):
                wrong.append(place)

    workers = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert not wrong


def test_blas_has_its_threads_again_after_a_kernel(many_threads):
    blas = threads._openblas()
    if blas is None:
        pytest.skip("NumPy's BLAS is not OpenBLAS")
    before = blas[0]()

    threads.run(lambda item: None, range(9))

    assert blas[0]() == before


def test_an_error_in_a_block_is_raised_and_the_next_call_works(many_threads):
    def fail(item):
        if item == 5:
            raise MemoryError("block 5")

    with pytest.raises(MemoryError, match="block 5"):
        threads.run(fail, range(9))

    done = []
    threads.run(done.append, range(9))
    assert sorted(done) == list(range(9))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_computes_with_threads_of_its_own(many_threads):
    x, w = floats(9, 20, 21, 16), floats(3, 3, 16, 24)
    expected = dg.nn.conv(x, w).numpy()
    child = os.fork()
    if child == 0:
        same = np.array_equal(dg.nn.conv(x, w).numpy(), expected)
        os._exit(0 if same else 1)
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0


CALLS = {
    "conv": lambda x, w, g, s: convolution.conv(x, w, *s),
    "conv_transpose": lambda x, w, g, s: convolution.conv_transpose(g, w, x.shape[1:-1], *s),
    "conv_kernel_vjp": lambda x, w, g, s: convolution.conv_kernel_vjp(x, g, (5, 5), *s),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_large_batch_takes_no_more_than_its_result_and_a_bounded_scratch(name):
    x, w, g = floats(96, 32, 32, 16), floats(5, 5, 16, 16), floats(96, 32, 32, 16)
    slide = ((1, 1), ((2, 2), (2, 2)), (1, 1), 1)
    unrolled = 25 * x.nbytes  # what the windows of the whole batch would take: 150 MiB
    CALLS[name](x[:1], w, g[:1], slide)

    tracemalloc.start()
    result = CALLS[name](x, w, g, slide)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < result.nbytes + (8 << 20) < unrolled / 4


def test_pooling_takes_no_more_than_its_result_and_a_bounded_scratch():
    x = floats(64, 32, 32, 32)
    shape = ((3, 3), (2, 2), ((1, 1), (1, 1)))
    y = pooling.max_pool(x, *shape)
    places = pooling.pool_places(x, y, *shape)

    for call, size in (
        (lambda: pooling.max_pool(x, *shape), y.nbytes),
        (lambda: pooling.pool_places(x, y, *shape), places.nbytes),
        (lambda: pooling.max_pool_vjp(y, places, (32, 32), *shape), x.nbytes),
    ):
        tracemalloc.start()
        call()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < size + (4 << 20)


@pytest.mark.parametrize("rows", [1, 2, 5, 7, 12, 1000])
@pytest.mark.parametrize("shape", [(3, 4, 5, 2), (1, 7, 2), (2, 3, 2, 4, 1), (0, 4, 2), (2, 0, 2)])
def test_blocks_cover_every_window_once_and_are_contiguous(shape, rows):
    seen = np.zeros(shape, int)

    for block in blocks_of(shape, rows):
        part = seen[tuple(slice(*each) for each in block)]
        part += 1
        assert part.flags.c_contiguous
        assert part.size // shape[-1] <= rows

    assert (seen == 1).all()


def test_noncontiguous_and_read_only_operands_are_read_as_they_lie():
    x = np.moveaxis(floats(3, 4, 9, 8), 1, -1)[:, ::-1]
    w = floats(4, 6, 2, 3).T[:, ::-1].swapaxes(2, 3)[..., :4, :]
    slide = ((2, 1), ((1, 0), (0, 1)), (1, 1), 1)

    found = convolution.conv(x, w, *slide)

    expected = convolution.conv(x.copy(), w.copy(), *slide)
    np.testing.assert_array_equal(found, expected)


def test_importing_the_backend_starts_no_thread():
    import subprocess

    code = "import distgrad, threading; assert threading.active_count() == 1"

    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
