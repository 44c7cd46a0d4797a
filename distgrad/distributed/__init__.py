"""Data-parallel work: ranks, gradients averaged over them, and jobs that never hang.

Importing this starts no MPI; `init`, or the first use of the ranks, does.
"""

from distgrad.distributed.collectives import allgather, allreduce, average, barrier, broadcast
from distgrad.distributed.communicator import (
    Communicator,
    RecordedCommunicator,
    SerialCommunicator,
)
from distgrad.distributed.gradient_tape import DistributedGradientTape
from distgrad.distributed.launch import init, stand_by, world
from distgrad.distributed.mpi import MPICommunicator
from distgrad.distributed.sharding import shard
from distgrad.distributed.variables import broadcast_variables
from distgrad.errors import (
    BatchError,
    CommunicationError,
    DesyncError,
    LaunchError,
    RemoteRankError,
    StallError,
    UnsupportedOptionError,
)

__all__ = [
    "BatchError",
    "CommunicationError",
    "Communicator",
    "DesyncError",
    "DistributedGradientTape",
    "LaunchError",
    "MPICommunicator",
    "RecordedCommunicator",
    "RemoteRankError",
    "SerialCommunicator",
    "StallError",
    "UnsupportedOptionError",
    "allgather",
    "allreduce",
    "average",
    "barrier",
    "broadcast",
    "broadcast_variables",
    "init",
    "shard",
    "world",
]

stand_by()
