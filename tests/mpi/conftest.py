"""What tests on several ranks share: a directory that all of them see."""

import shutil
import tempfile
from pathlib import Path

import pytest

import distgrad.distributed as dist
from distgrad.distributed.verbs.communicator import exchange_json


@pytest.fixture
def directory():
    """Return one directory for all ranks, which is removed when all of them are done with it."""
    world = dist.world()
    path = Path(exchange_json(world, tempfile.mkdtemp() if world.rank == 0 else None)[0])
    yield path
    world.barrier()
    if world.rank == 0:
        shutil.rmtree(path)
