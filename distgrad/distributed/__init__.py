"""Data-parallel work: ranks, gradients averaged over them, and jobs that never hang.

Importing this starts no MPI; `init`, or the first use of the ranks, does.
"""

import os
from importlib import import_module

from distgrad.core.spans import span
from distgrad.distributed import compression
from distgrad.distributed.averaging.accumulation import GradientAccumulator
from distgrad.distributed.averaging.gradient_tape import DistributedGradientTape
from distgrad.distributed.averaging.report import CommReport, last_report
from distgrad.distributed.averaging.tuning import Choice, autotune
from distgrad.distributed.batches.joining import join
from distgrad.distributed.batches.logical import logical_shards, sum_logical_shards
from distgrad.distributed.batches.sharding import micro_batches, shard
from distgrad.distributed.elastic.job import ElasticJob, Recovery
from distgrad.distributed.launching.launch import init, stand_by, world
from distgrad.distributed.normalization import SyncBatchNorm, sync_batch_norm, sync_moments
from distgrad.distributed.replaying.replaying import ReplayCommunicator
from distgrad.distributed.replaying.tape_file import ReplayError
from distgrad.distributed.safety.audit import Divergence, DivergenceAudit
from distgrad.distributed.sharded.blocks import Block
from distgrad.distributed.sharded.optimizer import ShardedOptimizer
from distgrad.distributed.sharded.report import ShardReport
from distgrad.distributed.stepping.optimizer import DistributedOptimizer
from distgrad.distributed.tracing.block import timeline
from distgrad.distributed.tracing.job import Timeline
from distgrad.distributed.tracing.merging import TimelineError
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
    DivergenceError,
    LaunchError,
    NonFiniteGradientError,
    RankLostError,
    RemoteRankError,
    ShardedValueError,
    StallError,
    UnsupportedOptionError,
)

__all__ = [
    "BatchError",
    "Block",
    "Choice",
    "CommReport",
    "CommunicationError",
    "Communicator",
    "DesyncError",
    "DistributedGradientTape",
    "DistributedOptimizer",
    "Divergence",
    "DivergenceAudit",
    "DivergenceError",
    "ElasticJob",
    "GradientAccumulator",
    "LaunchError",
    "MPICommunicator",
    "NonFiniteGradientError",
    "RankLostError",
    "RecordedCommunicator",
    "Recovery",
    "RemoteRankError",
    "ReplayCommunicator",
    "ReplayError",
    "SerialCommunicator",
    "ShardReport",
    "ShardedOptimizer",
    "ShardedValueError",
    "StallError",
    "SyncBatchNorm",
    "Timeline",
    "TimelineError",
    "UnsupportedOptionError",
    "allgather",
    "allreduce",
    "alltoall",
    "autotune",
    "average",
    "barrier",
    "broadcast",
    "broadcast_variables",
    "compression",
    "init",
    "join",
    "last_report",
    "logical_shards",
    "micro_batches",
    "reduce_scatter",
    "shard",
    "span",
    "sum_logical_shards",
    "sync_batch_norm",
    "sync_moments",
    "timeline",
    "world",
]

stand_by()

if os.environ.get("DISTGRAD_FAULTS"):
    # By its name, since the kit stands on this package; nobody who injects no faults imports it.
    import_module("distgrad.testing.faults").install()
