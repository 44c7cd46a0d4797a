"""Share the cores of a machine among its ranks: each gets its part of the threads."""

from __future__ import annotations

import contextlib
import os
import warnings
from functools import lru_cache

# Whoever sets one of these has decided.
THREAD_VARIABLES = frozenset(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")
)


def threads_per_rank(ranks_here: int) -> int:
    """Return how many threads each rank of this machine can run on cores of its own, at least 1.

    Parameters
    ----------
    ranks_here : int
        How many ranks share the cores that this process may run on.

    Notes
    -----
    Slurm binds each task that `srun` starts to cores of its own, of which there are
    ``SLURM_CPUS_PER_TASK``: those are not shared.
    """
    cores = len(os.sched_getaffinity(0))
    own = _cores_of_a_task(ranks_here)
    return max(cores // ranks_here, 1) if own is None else min(own, cores)


def _cores_of_a_task(ranks: int) -> int | None:
    """Return how many cores Slurm was asked for each rank, if its tasks are the ranks; else None.

    They are not where one task starts an `mpirun`: then its cores are shared.
    """
    cores = os.environ.get("SLURM_CPUS_PER_TASK", "")
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS")
    if tasks is None:  # a batch script, or ranks that an mpirun in it has started itself
        tasks, started = os.environ.get("SLURM_NTASKS"), str(ranks)
    else:
        sizes = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")  # `srun --mpi=pmi2` sets the second, too
        started = next((os.environ[name] for name in sizes if name in os.environ), tasks)
    return int(cores) if tasks == started and cores.isdigit() and int(cores) else None


def share_cores(ranks_here: int) -> int | None:
    """Limit the BLAS and OpenMP threads of this process to its part of the cores.

    Without that every rank starts a thread for every core, and all ranks wait for each other: with
    2 ranks on 2 cores a small training step takes about 6 times as long.

    Parameters
    ----------
    ranks_here : int
        How many ranks run on this machine.

    Returns
    -------
    int or None
        The limit; None where nothing was changed: one rank, a number of threads set by the user
        (``OMP_NUM_THREADS``, ...), or no threadpoolctl, which the extras ``mpi`` and ``openmpi``
        bring.
    """
    if ranks_here < 2 or THREAD_VARIABLES & os.environ.keys():
        return None
    with contextlib.suppress(ImportError):
        from threadpoolctl import threadpool_limits

        limit = threads_per_rank(ranks_here)
        threadpool_limits(limit)
        return limit
    return None


@lru_cache(maxsize=1)  # once a process: to ask takes milliseconds
def use_one_thread() -> None:
    """Limit BLAS to one thread, since how it cuts up its sums may depend on their number.

    Warns
    -----
    RuntimeWarning
        If the user asked for several threads by ``OMP_NUM_THREADS`` or the like.
    """
    with contextlib.suppress(ImportError):
        from threadpoolctl import threadpool_info, threadpool_limits

        if not THREAD_VARIABLES & os.environ.keys():
            threadpool_limits(1, user_api="blas")
        found = [each for each in threadpool_info() if each["user_api"] == "blas"]
        several = [each for each in found if each["num_threads"] > 1]
        if several:
            warnings.warn(
                f"logical_shards: {several[0]['internal_api']} runs "
                f"{several[0]['num_threads']} threads; results may differ in their last bits from "
                "those of another number: set OPENBLAS_NUM_THREADS=1 and OMP_NUM_THREADS=1",
                RuntimeWarning,
                stacklevel=3,
            )
