"""What all tests share: each leaves the set of backends in use as it found it."""

import pytest

from distgrad import eager


@pytest.fixture(autouse=True)
def backends_in_use():
    before = dict(eager._kernels)
    yield
    eager._kernels.clear()
    eager._kernels.update(before)
