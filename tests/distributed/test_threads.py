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
