"""What training jobs share: the loop, its arguments, checkpoints, and where results are told."""

from distgrad.training.arguments import JobParser
from distgrad.training.averages import Averaged
from distgrad.training.history import History, Trained
from distgrad.training.job import Job, JobError, Preempted
from distgrad.training.loop import train
from distgrad.training.meter import Cost, MeteredCommunicator
from distgrad.training.metrics import MetricsFile, variables_sha256
from distgrad.training.outlets import percent
from distgrad.training.progress import Progress
from distgrad.training.running import run_job
from distgrad.training.stopping import EarlyStopping
from distgrad.training.summary import show_summary
from distgrad.training.terminal import terminal_columns

__all__ = [
    "Averaged",
    "Cost",
    "EarlyStopping",
    "History",
    "Job",
    "JobError",
    "JobParser",
    "MeteredCommunicator",
    "MetricsFile",
    "Preempted",
    "Progress",
    "Trained",
    "percent",
    "run_job",
    "show_summary",
    "terminal_columns",
    "train",
    "variables_sha256",
]
