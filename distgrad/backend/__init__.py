"""Backends: whatever interprets the vocabulary for one kind of array."""

from distgrad.backend.discovery import BackendStatus, known, load, status
from distgrad.backend.kernels import Kernels
from distgrad.backend.kit import ArrayModuleBackend
from distgrad.backend.protocol import API_VERSION, Backend

__all__ = [
    "API_VERSION",
    "ArrayModuleBackend",
    "Backend",
    "BackendStatus",
    "Kernels",
    "known",
    "load",
    "status",
]
