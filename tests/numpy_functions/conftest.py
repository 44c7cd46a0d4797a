"""What tests of NumPy's functions share: a backend that is not NumPy."""

import array_api_strict
import pytest

from distgrad.backend import ArrayModuleBackend

STRICT = ArrayModuleBackend("strict", array_api_strict)


@pytest.fixture
def strict():
    """The backend over array-api-strict, which stands in for CuPy's."""
    return STRICT
