"""Each rank of a run has temporary folders of its own."""

import distgrad.distributed as dist


def test_the_temporary_folder_of_a_rank_is_its_own(tmp_path_factory):
    own = tmp_path_factory.getbasetemp()

    assert own.name.startswith(f"pytest-rank-{dist.world().rank}-")
