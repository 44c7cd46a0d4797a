"""Data-parallel work: ranks, gradients averaged over them, and jobs that never hang.

Importing this starts no MPI; `init`, or the first use of the ranks, does.
"""

import os
from importlib import import_module

from distgrad.distributed.averaging.accumulation import GradientAccumulator
from distgrad.distributed.averaging.gradient_tape import DistributedGradientTape
from distgrad.distributed.averaging.report import CommReport, last_report
from distgrad.distributed.batches.joining import join
from distgrad.distributed.batches.logical import logical_shards, sum_logical_shards
from distgrad.distributed.batches.sharding import micro_batches, shard
from distgrad.distributed.launching.launch import init, stand_by, world
from distgrad.distributed.normalization import SyncBatchNorm, sync_batch_norm, sync_moments
from distgrad.distributed.variables import broadcast_variables
from distgrad.distributed.verbs.collectives import (
    allgather,
    allreduce,
    alltoall,
    average,
    barrier,
    broadcast,
    reduce_scatter,
)
from distgrad.distributed.verbs.communicator import (
    Communicator,
    RecordedCommunicator,
    SerialCommunicator,
)
from distgrad.distributed.verbs.mpi import MPICommunicator
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
    "CommReport",
    "CommunicationError",
    "Communicator",
    "DesyncError",
    "DistributedGradientTape",
    "GradientAccumulator",
    "LaunchError",
    "MPICommunicator",
    "RecordedCommunicator",
    "RemoteRankError",
    "SerialCommunicator",
    "StallError",
    "SyncBatchNorm",
    "UnsupportedOptionError",
    "allgather",
    "allreduce",
    "alltoall",
    "average",
    "barrier",
    "broadcast",
    "broadcast_variables",
    "init",
    "join",
    "last_report",
    "logical_shards",
    "micro_batches",
    "reduce_scatter",
    "shard",
    "sum_logical_shards",
    "sync_batch_norm",
    "sync_moments",
    "world",
]

stand_by()

if os.environ.get("DISTGRAD_FAULTS"):
    # By its name, since the kit stands on this package; nobody who injects no faults imports it.
    import_module("distgrad.testing.faults").install()
