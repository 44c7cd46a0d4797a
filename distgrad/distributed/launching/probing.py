"""Ask an MPI library about itself in a process of its own: a wrong one may end whoever loads it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache

from distgrad.distributed.launching.processes import outer_environment

_SECONDS = 30.0

# Loads the library, starts nothing. The extensions may be asked before MPI_Init.
_PROBE = r"""
import ctypes, json, re
said = {}
try:
    import mpi4py
    said["mpi4py"] = mpi4py.__version__
    mpi4py.rc.initialize = False
    mpi4py.rc.finalize = False
    from mpi4py import MPI
    vendor, numbers = MPI.get_vendor()
    said["vendor"] = vendor
    said["version"] = ".".join(map(str, numbers))
    said["library"] = MPI.Get_library_version().splitlines()[0].strip("\0 ")
    said["standard"] = ".".join(map(str, MPI.Get_version()))
    paths = re.findall(r"\s(/\S*libmpi\S*\.so\S*)$", open("/proc/self/maps").read(), re.M)
    said["path"] = next((p for p in paths if "mpi4py" not in p), "")
    if said["path"]:
        library = ctypes.CDLL(said["path"])
        if hasattr(library, "MPIX_Query_cuda_support"):
            print(json.dumps(said), flush=True)
            said["cuda"] = bool(library.MPIX_Query_cuda_support())
except (ImportError, RuntimeError) as error:
    said["error"] = str(error).splitlines()[0]
print(json.dumps(said), flush=True)
"""

# By which each MPI that can take device buffers is told to.
_SWITCHES = ("MPICH_GPU_SUPPORT_ENABLED", "MPIR_CVAR_ENABLE_GPU", "MV2_USE_CUDA", "PSP_CUDA")


# Messages to itself of numbers in device memory, a short one and one of those that libraries carry
# in another way. A library that takes the pointer for one of the host's ends the process, or gives
# something else. Reductions are made of such messages: see `verbs.device_slices`.
_DEVICE_PROBE = r"""
import sys
import cupy
from mpi4py import MPI
for length in (4097, 2**20 + 1):
    sent = cupy.arange(length, dtype=cupy.float32)
    arrived = cupy.zeros_like(sent)
    cupy.cuda.Device().synchronize()
    requests = [MPI.COMM_SELF.Irecv(arrived, 0, 0), MPI.COMM_SELF.Isend(sent, 0, 0)]
    MPI.Request.Waitall(requests)
    if not bool((arrived == sent).all()):
        sys.exit(1)
"""


@cache
def takes_device_arrays() -> bool:
    """Return whether the MPI library was seen to take arrays in CUDA memory, in another process.

    Only a library that says it can, or whose switch is set, is tried: the others end the process.
    """
    library = probe_library()
    if library.reason or not (library.takes_device_buffers or library.switches):
        return False
    try:
        done = subprocess.run(  # noqa: S603  the program stands above
            [sys.executable, "-c", _DEVICE_PROBE],
            capture_output=True,
            timeout=_SECONDS,
            env=outer_environment(),
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


@dataclass(frozen=True)
class Library:
    """What an MPI library says of itself.

    Attributes
    ----------
    mpi4py : str
        Version of mpi4py; empty if it is not installed.
    vendor, version, standard : str
        Of the library, such as ``"MPICH"``, ``"5.0.2"``, and of the MPI standard; empty if there is
        none.
    text : str
        How the library introduces itself.
    path : str
        The file.
    takes_device_buffers : bool or None
        Whether it was built to take buffers in CUDA memory; None if it does not say.
    switches : tuple of str
        Variables of the environment that ask for it.
    reason : str
        Why there is no library, or why it did not answer.
    """

    mpi4py: str = ""
    vendor: str = ""
    version: str = ""
    standard: str = ""
    text: str = ""
    path: str = ""
    takes_device_buffers: bool | None = None
    switches: tuple[str, ...] = ()
    reason: str = ""


def probe_library() -> Library:
    """Return what the MPI library that mpi4py finds says of itself, without starting MPI here."""
    switches = tuple(f"{name}={os.environ[name]}" for name in _SWITCHES if name in os.environ)
    try:
        done = subprocess.run(  # noqa: S603  the program stands above
            [sys.executable, "-c", _PROBE],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            env=outer_environment(),
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Library(switches=switches, reason=f"no answer within {_SECONDS:.0f} s")
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    said = json.loads(lines[-1]) if lines else {}
    reason = said.get("error", "")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        reason = f"the process that asked ended with {done.returncode}: {last}"
    return Library(
        said.get("mpi4py", ""),
        said.get("vendor", ""),
        said.get("version", ""),
        said.get("standard", ""),
        said.get("library", ""),
        said.get("path", ""),
        said.get("cuda"),
        switches,
        reason,
    )
