"""What a training job needs around its loop: progress, a summary, and metrics on disk."""

from distgrad.training.arguments import JobParser
from distgrad.training.meter import Cost, MeteredCommunicator
from distgrad.training.metrics import MetricsFile, variables_sha256
from distgrad.training.progress import Progress
from distgrad.training.summary import show_summary
from distgrad.training.terminal import terminal_columns

__all__ = [
    "Cost",
    "JobParser",
    "MeteredCommunicator",
    "MetricsFile",
    "Progress",
    "show_summary",
    "terminal_columns",
    "variables_sha256",
]
