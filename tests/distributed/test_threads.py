"""The ranks of one machine share its cores, unless the user has decided."""

import os

import numpy as np  # noqa: F401  loads a BLAS whose threads can be counted
import pytest

from distgrad.distributed.launching import threads

threadpoolctl = pytest.importorskip("threadpoolctl", reason="comes with the extra mpi")


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    for name in threads.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with threadpoolctl.threadpool_limits():
        yield


def blas_threads():
    return {pool["num_threads"] for pool in threadpoolctl.threadpool_info()}


@pytest.mark.parametrize(("cores", "ranks", "expected"), [(8, 2, 4), (8, 3, 2), (2, 4, 1)])
def test_each_rank_gets_its_part_of_the_cores(monkeypatch, cores, ranks, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))

    assert threads.threads_per_rank(ranks) == expected


def test_the_threads_of_blas_are_limited():
    limit = threads.share_cores(len(os.sched_getaffinity(0)))

    assert limit == 1
    assert blas_threads() == {1}


def test_one_rank_keeps_all_cores():
    before = blas_threads()

    assert threads.share_cores(1) is None
    assert blas_threads() == before


def test_what_the_user_has_set_stays(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    before = blas_threads()

    assert threads.share_cores(1000) is None
    assert blas_threads() == before


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"SLURM_STEP_NUM_TASKS": "8"}, 3),
        ({"SLURM_STEP_NUM_TASKS": "8", "PMI_SIZE": "8"}, 3),  # srun --mpi=pmi2
        # Hydra's and Open MPI's helpers are the tasks, one a machine; their ranks share its cores.
        ({"SLURM_STEP_NUM_TASKS": "2", "PMI_SIZE": "8"}, 2),
        ({"SLURM_STEP_NUM_TASKS": "2", "OMPI_COMM_WORLD_SIZE": "8"}, 2),
        ({"SLURM_NTASKS": "4"}, 3),  # a batch script that starts as many ranks as it has tasks
        ({"SLURM_NTASKS": "1"}, 2),
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_CPUS_PER_TASK": "64"}, 8),  # more than there are
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_CPUS_PER_TASK": "0"}, 2),
    ],
)
def test_tasks_of_slurm_have_the_cores_that_each_was_given(monkeypatch, variables, expected):
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"SLURM_CPUS_PER_TASK": "3", **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))

    assert threads.threads_per_rank(4) == expected
