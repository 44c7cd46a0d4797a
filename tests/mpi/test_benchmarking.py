"""`distgrad bench messages`: every rank measures, one of them prints."""

import json

import pytest

import distgrad.distributed as dist
from distgrad.cli import main

pytestmark = pytest.mark.mpi(min_size=2)


def test_messages_are_measured_on_all_ranks_and_printed_by_the_first(capsys):
    world = dist.world()

    assert main(["bench", "messages", "--json"]) == 0

    printed = capsys.readouterr().out
    if world.rank:
        assert not printed
        return
    found = json.loads(printed)
    assert found["ranks"] == world.size
    assert all(line["lower_quartile"] > 0 for line in found["cases"]["messages"])
