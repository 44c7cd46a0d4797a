"""Which way arrays in a device's memory travel: by NCCL, by an MPI that takes them, or by the host.

All ranks of a communicator decide together, once, from what each of them found: a way that one rank
cannot go is no way. No way is trusted before it has given the sum of known numbers: what one
process can ask of a library is not what several do with it.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from weakref import WeakKeyDictionary

from distgrad.distributed.launching.probing import takes_device_arrays
from distgrad.distributed.safety.fingerprint import Plan, agree
from distgrad.distributed.verbs.communicator import Communicator, exchange_json
from distgrad.distributed.verbs.device_line import Line, module_of, within_trial
from distgrad.distributed.verbs.nccl import NCCLGroup, device_identity, nccl_version
from distgrad.errors import CommunicationError, LaunchError, RemoteRankError, StallError

VARIABLE = "DISTGRAD_DEVICE_BUFFERS"
WAYS = ("auto", "nccl", "mpi", "host")

# NCCL 2.4 is the first whose communicators can be given up while they wait for a lost rank, 2.7
# the first that carries messages from rank to rank.
_OLDEST_NCCL = 2700
# Lengths of the sums that a way is tried with: libraries carry short and long messages differently.
_TRIED = (5, 1 << 19)


@dataclass(frozen=True)
class Ability:
    """What one rank can do with device buffers.

    Attributes
    ----------
    device : str
        The device's own identity, the same for whoever uses it.
    nccl : int
        The version of NCCL as a number such as 22304; 0 without it.
    mpi : bool
        Whether the MPI library was seen to take device buffers.
    asked : str
        What the rank's environment asks for: one of `WAYS`.
    """

    device: str
    nccl: int = 0
    mpi: bool = False
    asked: str = "auto"


def choose(abilities: list[Ability], failures: Mapping[str, str] | None = None) -> tuple[str, str]:
    """Return the way for a group of ranks, ``"nccl"``, ``"mpi"`` or ``"host"``, and why.

    Parameters
    ----------
    abilities : list of Ability
        One for each rank.
    failures : mapping, optional
        The ways that were tried and failed, and how.

    Raises
    ------
    LaunchError
        If ranks ask for different ways, or for one that is not there.
    """
    asked = sorted({each.asked for each in abilities})
    if len(asked) > 1:
        raise LaunchError(
            f"{VARIABLE} is {' on some ranks, '.join(asked)} on others; expected the same on every "
            "rank"
        )
    devices = {each.device for each in abilities}
    if any(not each.nccl for each in abilities):
        without_nccl = "a rank has no NCCL (pip install nvidia-nccl-cu12, or -cu13)"
    elif min(each.nccl for each in abilities) < _OLDEST_NCCL:
        without_nccl = "a rank's NCCL is older than 2.7"
    elif len(devices) < len(abilities):
        without_nccl = "ranks share a device, which NCCL refuses"
    else:
        without_nccl = ""
    without_mpi = "" if all(each.mpi for each in abilities) else "MPI does not take device buffers"
    failed = {} if failures is None else failures
    without_nccl = failed.get("nccl", without_nccl)
    without_mpi = failed.get("mpi", without_mpi)
    wish = asked[0]
    missing = {"nccl": without_nccl, "mpi": without_mpi}.get(wish, "")
    if missing:
        raise LaunchError(f"{VARIABLE}={wish} cannot be had: {missing}; leave it out for a choice")
    if wish in ("nccl", "mpi", "host"):
        return wish, f"{VARIABLE}={wish}"
    if not without_nccl:
        return "nccl", "every rank has NCCL and a device of its own"
    if not without_mpi:
        return "mpi", f"{without_nccl}; every rank's MPI takes device buffers"
    return "host", f"{without_nccl}; {without_mpi}"


_lines: WeakKeyDictionary[Communicator, Line] = WeakKeyDictionary()


def is_on_device(array: Any) -> bool:
    """Return whether an array lies in the memory of a CUDA device."""
    return hasattr(type(array), "__cuda_array_interface__")


def line_of(comm: Communicator, backend: Any, array: Any) -> Line | None:
    """Return the way of a communicator's device arrays; None for an array of the host.

    All ranks call this together the first time that an array of a device travels.

    Raises
    ------
    DesyncError
        If other ranks do something else, such as send arrays of the host.
    LaunchError
        As `choose`, or if the way does not answer when it is tried.
    """
    if not is_on_device(array) or comm.size == 1:
        return None
    known = _lines.get(comm)
    if known is not None:
        return known
    agree(comm, Plan("choice of the way for device buffers"))
    own = _ability(array)
    abilities = [Ability(**each) for each in exchange_json(comm, asdict(own))]
    failures: dict[str, str] = {}
    while True:
        way, reason = choose(abilities, failures)
        try:
            with array.device, within_trial(comm):
                line, wrong = _made(comm, backend, array, way, reason)
        except StallError as error:
            raise LaunchError(
                f"{way} did not answer when it was tried for arrays on devices; {VARIABLE}=host "
                f"does not try it ({error})"
            ) from error
        if not any(wrong):
            break
        rank = next(rank for rank, each in enumerate(wrong) if each)
        failures[way] = f"{way} failed when it was tried, on rank {rank}: {wrong[rank]}"
        if own.asked == "auto" and comm.rank == 0:
            warnings.warn(
                f"arrays on devices travel another way: {failures[way]}; {VARIABLE}=host does not "
                "try it",
                RuntimeWarning,
                stacklevel=2,
            )
    _lines[comm] = line
    return line


def _made(
    comm: Communicator, backend: Any, array: Any, way: str, reason: str
) -> tuple[Line, list[str]]:
    """Return the line of a way, and what each rank found wrong with it; all ranks call this."""
    line = Line(comm, backend, way, reason)
    if way == "host":
        return line, []
    wrong = ""
    if way == "nccl":
        try:
            line = Line(comm, backend, way, reason, NCCLGroup(comm, module_of(array)))
        except (RemoteRankError, StallError):
            raise
        except CommunicationError as error:
            wrong = str(error)
    said: list[str] = exchange_json(comm, wrong)
    for length in _TRIED:
        if not any(said):
            said = exchange_json(comm, line.try_out(length))
    return line, said


def line_of_sources(comm: Communicator, sources: Sequence[Any]) -> Line | None:
    """Return the way of the gradients of variables or tensors that all lie on a device.

    None where they do not, or where the way is the host's: then they travel as those of the host.
    """
    if not sources or not all(is_on_device(source.array) for source in sources):
        return None
    line = line_of(comm, sources[0].kernels.backend, sources[0].array)
    return None if line is None or line.way == "host" else line


def _ability(array: Any) -> Ability:
    """Return what this rank can do."""
    asked = os.environ.get(VARIABLE, "auto")
    if asked not in WAYS:
        raise LaunchError(f"{VARIABLE}={asked!r}; expected one of {', '.join(WAYS)}")
    module = module_of(array)
    version = 0 if asked == "host" else nccl_version(module)
    # Asked for by a process of its own, and only where nothing better is there.
    mpi = asked == "mpi" or (asked == "auto" and not version)
    return Ability(device_identity(array.device), version, mpi and takes_device_arrays(), asked)
