"""Choose the device of a rank: each rank of a machine its own, as long as there are enough.

It is chosen when the backend is loaded, which is before any array lies on a device; a program that
has called CuPy before has made its choice by `cupy.cuda.Device(n).use()`, which under a launcher
counts for nothing unless `DISTGRAD_CUDA_DEVICE` says so too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

VARIABLE = "DISTGRAD_CUDA_DEVICE"

# What launchers tell a process of its number on its machine.
_LOCAL_RANKS = (
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MV2_COMM_WORLD_LOCAL_RANK",
    "MPI_LOCALRANKID",
    "FLUX_TASK_LOCAL_ID",
    "JSM_NAMESPACE_LOCAL_RANK",
    "PALS_LOCAL_RANKID",
    "SLURM_LOCALID",
)


def device_of_rank(count: int, environment: Mapping[str, str] | None = None) -> int | None:
    """Return the number of this process's device; None to leave the current one.

    Parameters
    ----------
    count : int
        How many devices this process sees.
    environment : mapping, optional
        The variables to read; the process's own by default.

    Raises
    ------
    ValueError
        If `DISTGRAD_CUDA_DEVICE` is no device.

    Notes
    -----
    Ranks beyond the number of devices share them in turn. Where no variable of the launcher tells
    the number on the machine, the job is joined to find out (`distgrad.distributed.world`).
    """
    from distgrad.distributed.launching.launch import detect, world  # only for who has a device

    variables = os.environ if environment is None else environment
    asked = variables.get(VARIABLE)
    if asked is not None:
        if not asked.isdigit() or int(asked) >= count:
            raise ValueError(
                f"{VARIABLE}={asked!r} is no device; expected 0 to {count - 1}, as "
                "CUDA_VISIBLE_DEVICES leaves them"
            )
        return int(asked)
    if detect(variables).size == 1:
        return None
    if count == 1:
        return 0
    for name in _LOCAL_RANKS:
        if variables.get(name, "").isdigit():
            return int(variables[name]) % count
    return world().local_rank % count


def why_no_device(runtime: Any, status: int) -> str:
    """Return what is missing where CUDA tells of no device, and what to do.

    Parameters
    ----------
    runtime : module
        `cupy.cuda.runtime`.
    status : int
        The number of CUDA's error; 0 where it counted none.
    """
    driver, built = runtime.driverGetVersion(), _release(runtime.runtimeGetVersion())
    if not driver:
        return (
            "there is no NVIDIA driver, libcuda.so.1 is not found; remedy: install the driver of "
            "the machine's GPU, or show it to the container (docker run --gpus all)"
        )
    if status == _INSUFFICIENT_DRIVER:
        return (
            f"the NVIDIA driver is for CUDA {_release(driver)} at most, and CuPy was made for CUDA "
            f"{built}; remedy: install a newer driver, or the CuPy for that CUDA"
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    shown = "" if visible is None else f", and CUDA_VISIBLE_DEVICES is {visible!r}"
    told = f" ({runtime.CUDARuntimeError(status)})" if status else ""
    return (
        f"the NVIDIA driver, for CUDA {_release(driver)}, shows no device{told}{shown}; remedy: "
        "see what nvidia-smi lists, and that CUDA_VISIBLE_DEVICES hides none"
    )


_INSUFFICIENT_DRIVER = 35  # cudaErrorInsufficientDriver, also where there is no driver at all


def _release(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"
