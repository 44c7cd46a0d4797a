"""The planner's measurement over MPI: on parts of the ranks and on all, the same for everybody."""

import numpy as np
import pytest

import distgrad.distributed as dist
from distgrad.distributed.planning.link import fit
from distgrad.distributed.planning.measuring import measure

pytestmark = pytest.mark.mpi(min_size=2)


def test_parts_of_the_ranks_are_measured_and_all_ranks_get_the_same():
    world = dist.world()
    lengths = (8, 512, 4096, 65_536)

    samples = measure(world, lengths)

    parts = [n for n in (2, 4, 8) if n < world.size] + [world.size]
    assert [(s.ranks, s.nbytes) for s in samples] == [(n, size) for n in parts for size in lengths]
    everyone = world.allgather(np.array(samples, np.float64))
    assert (everyone == everyone[0]).all()
    assert everyone[0][:, 2].min() > 0
    assert fit(samples).error >= 0
