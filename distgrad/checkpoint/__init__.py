"""Checkpoints: what a training is, on the disk, whole or not at all.

Files are in the safetensors format, with a JSON manifest that holds their checksums.
"""

from distgrad.checkpoint.leaves import Shard
from distgrad.checkpoint.listing import latest
from distgrad.checkpoint.loading import Checkpoint, load
from distgrad.checkpoint.manager import Manager
from distgrad.checkpoint.saving import save
from distgrad.checkpoint.weights import load_safetensors, save_safetensors
from distgrad.errors import (
    CheckpointError,
    CheckpointMismatchError,
    CheckpointWarning,
    CheckpointWriteError,
    DamagedCheckpointError,
    MissingCheckpointError,
)

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "CheckpointMismatchError",
    "CheckpointWarning",
    "CheckpointWriteError",
    "DamagedCheckpointError",
    "Manager",
    "MissingCheckpointError",
    "Shard",
    "latest",
    "load",
    "load_safetensors",
    "save",
    "save_safetensors",
]
