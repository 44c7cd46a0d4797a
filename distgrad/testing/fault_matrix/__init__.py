"""All faults that a data-parallel job is known to meet, each as a job, with the end that it has."""

from distgrad.testing.fault_matrix import checkpoints, endings, messages, numbers
from distgrad.testing.fault_matrix.cases import Bench, Case, Limit, UnexpectedEndError

CASES: tuple[Case, ...] = tuple(
    sorted(
        (*messages.CASES, *endings.CASES, *numbers.CASES, *checkpoints.CASES),
        key=lambda case: (case.number, case.variant),
    )
)

__all__ = ["CASES", "Bench", "Case", "Limit", "UnexpectedEndError"]
