"""A stranger's backend: the whole of it is its name and an array-API module."""

import array_api_strict
import pytest

from distgrad.backend import ArrayModuleBackend

STRICT = ArrayModuleBackend("strict", array_api_strict)


@pytest.fixture
def strict():
    """The backend over array-api-strict, the consortium's minimal implementation."""
    return STRICT
