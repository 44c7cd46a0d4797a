"""The errors that distgrad raises: each says what failed, where, what was expected, what came."""

import numpy as np


class DistgradError(Exception):
    """Base of every error that distgrad raises on purpose.

    Each concrete class also derives from the built-in class that a user of NumPy or TensorFlow
    would catch (`ValueError`, `TypeError`, `RuntimeError`, ...).
    """


class ShapeError(DistgradError, ValueError):
    """Shapes do not fit an operation.

    Raised when operands do not broadcast, an axis is out of range, a reshape changes the number
    of elements, or the inner dimensions of a product differ.
    """


class DTypeError(DistgradError, TypeError):
    """A dtype is unknown, or an operation does not take it."""


class MixedBackendError(DistgradError, TypeError):
    """One operation received arrays of two backends.

    Move one of them with `Tensor.to(backend=...)`; nothing is copied between devices silently.
    """


class UnknownBackendError(DistgradError, LookupError):
    """No installed package offers a backend of this name."""


class BackendUnavailableError(DistgradError, ImportError):
    """A backend is known by name, but cannot be loaded here (package or device missing)."""


class MissingKernelError(DistgradError, NotImplementedError):
    """A backend has neither a kernel for an operation nor the means to compose it."""


class TapeError(DistgradError, RuntimeError):
    """A tape was used against its protocol: spent, not recording, or released."""


class UnconnectedError(DistgradError, ValueError):
    """No gradient path leads from the target to a source, and the caller asked for an error."""


class CommunicationError(DistgradError, RuntimeError):
    """Ranks could not exchange data.

    Raised when MPI reports an error, an array has a dtype that cannot travel, or an argument names
    a rank that does not exist.
    """


class LaunchError(CommunicationError):
    """The environment promises several ranks, but they cannot find each other.

    Causes: the `mpirun` belongs to another MPI than the library that mpi4py loads (every process
    would be a job of its own); mpi4py or the MPI library is missing on a rank.
    """


class DesyncError(CommunicationError):
    """Ranks are about to exchange different things.

    Causes: models built from different configurations, sources given in another order, a branch or
    a loop that depends on the rank. All ranks raise it, before any data are mixed up.

    Attributes
    ----------
    ranks : tuple of int
        The ranks that differ from the rest.
    names : tuple of str
        The variables (or arrays) in which they differ.
    """

    def __init__(
        self, message: str, ranks: tuple[int, ...] = (), names: tuple[str, ...] = ()
    ) -> None:
        super().__init__(message)
        self.ranks = ranks
        self.names = names


class RemoteRankError(CommunicationError):
    """Another rank raised, or left while this one needs it; the job ends within seconds.

    Attributes
    ----------
    rank : int
        The rank at fault.
    remote_traceback : str
        Its traceback; empty if it left without an error.
    """

    def __init__(self, message: str, rank: int, remote_traceback: str = "") -> None:
        super().__init__(
            f"{message}\n--- traceback of rank {rank} ---\n{remote_traceback.rstrip()}"
            if remote_traceback
            else message
        )
        self.rank = rank
        self.remote_traceback = remote_traceback


class NonFiniteGradientError(DistgradError, FloatingPointError):
    """Averaged gradients hold a NaN or an infinity, and ``nonfinite="raise"`` was asked for.

    Causes: a loss that is not finite on one rank's examples; a slope that is infinite where the
    value is not; a sum over ranks that overflows. All ranks raise it, with the same words.

    Attributes
    ----------
    ranks : tuple of int
        The ranks whose own gradients are not finite; none where only their sum is not.
    names : tuple of str
        The variables.
    """

    def __init__(
        self, message: str, ranks: tuple[int, ...] = (), names: tuple[str, ...] = ()
    ) -> None:
        super().__init__(message)
        self.ranks = ranks
        self.names = names


class DivergenceError(CommunicationError):
    """Variables that have to be equal on all ranks are not, and no message said so before.

    Causes: a rank that changed a variable by itself or missed an update; a generator seeded by the
    rank; a bit that flipped in memory. All ranks raise it, with the same words.

    Attributes
    ----------
    names : tuple of str
        The variables that differ, in their order.
    groups : tuple of tuple of int
        The ranks, by what they hold of the first of these; the largest group first.
    """

    def __init__(
        self,
        message: str,
        names: tuple[str, ...] = (),
        groups: tuple[tuple[int, ...], ...] = (),
    ) -> None:
        super().__init__(message)
        self.names = names
        self.groups = groups


class RankLostError(CommunicationError):
    """A rank has died, and the others know it: within `ElasticJob.run` they go on without it.

    Elsewhere the job ends with this error. Only Open MPI started ``--with-ft ulfm``, as by
    ``distgrad run --elastic``, tells survivors; any other MPI ends them.

    Attributes
    ----------
    ranks : tuple of int
        The ranks that are lost, as far as this one knows; empty if it has only heard of a loss.
    """

    def __init__(self, message: str, ranks: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.ranks = ranks


class StallError(CommunicationError, TimeoutError):
    """Ranks did not come to a collective operation before its deadline; the job ends.

    Causes: a rank computes for longer than the deadline, is stuck, or waits in another operation.

    Attributes
    ----------
    missing : tuple of int
        The ranks that had not arrived.
    """

    def __init__(self, message: str, missing: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.missing = missing


class JobTimeoutError(DistgradError, TimeoutError):
    """A job that `distgrad.testing.ranks` started did not end before its deadline.

    Attributes
    ----------
    stdout, stderr : str
        What the job had printed; the ranks' stacks are in `stderr`.
    """

    def __init__(self, message: str, stdout: str = "", stderr: str = "") -> None:
        super().__init__(message)
        self.stdout = stdout
        self.stderr = stderr


class BatchError(DistgradError, ValueError):
    """A batch cannot be shared among the ranks: unequal leading lengths, or no examples at all."""


class UnsupportedOptionError(DistgradError, NotImplementedError):
    """An argument asks for something that this version of distgrad does not do."""


class GradientCheckError(DistgradError, AssertionError):
    """A derivative does not agree with differences.

    Causes: a rule is wrong; the function is not differentiable there, or not the same at each call;
    its values are so large, or its dtype so narrow, that differences say little.
    """


class PositionError(ShapeError, IndexError):
    """A position does not exist: an index or the label of a class outside of an axis, or an axis.

    Also raised where there are more indices than axes, or a mask has another length than its axis.
    """


class TraceError(DistgradError, TypeError):
    """A traced function did what a graph cannot hold.

    Its Python code asked for the value of a symbolic tensor, kept one beyond the trace, or joined
    arrays of two backends.
    """


class UnknownValueError(TraceError):
    """A traced function asked for the value of a tensor, which is not known before it runs.

    Its way depends on values by Python's ``if`` or ``while``, or it prints or converts them.
    """


class NonFiniteError(DistgradError, FloatingPointError):
    """An operation made a NaN or an infinity while `distgrad.debug_nans` looked.

    Causes: a logarithm or root at or below zero, a quotient by zero, an overflow; in a backward
    pass also a slope that is infinite where the value is not, such as that of a root at zero.

    Attributes
    ----------
    operation : str
        The operation that made it.
    line : str
        The user's line that ran it.
    gradient_of : str or None
        In a backward pass, the operation whose gradient was being computed.
    """

    def __init__(self, operation: str, made: str, line: str) -> None:
        super().__init__(f"{operation} made {made}, at {line}")
        self.operation, self.made, self.line = operation, made, line
        self.gradient_of: str | None = None

    def in_gradient_of(self, operation: str, line: str) -> None:
        """Say of which operation a gradient was being computed, and where that had run."""
        if self.gradient_of is None:
            self.gradient_of = operation
            ran = f", which ran at {line}" if line else ""
            self.args = (
                f"{self.operation} made {self.made} in the gradient of {operation}{ran}; "
                f"the gradient was asked for at {self.line}",
            )


class MutationError(DistgradError, RuntimeError):
    """An array that a tape kept was changed in place before its rule read it.

    Raised within `distgrad.debug_mutations`. Cause: the program goes on to write to a NumPy array
    that it has passed to an operation; copy it first, ``dg.asarray(array, copy=True)``.

    Attributes
    ----------
    operation : str
        The operation whose rule was about to read the array.
    line : str
        The user's line that ran it.
    """

    def __init__(self, operation: str, shape: tuple[int, ...], dtype: str, line: str) -> None:
        super().__init__(
            f"{operation}: an array of shape {shape} and dtype {dtype} was changed in place after "
            f"{line} had used it, and before its gradient was computed; copy it first, "
            "dg.asarray(array, copy=True)"
        )
        self.operation, self.line = operation, line


class OffloadError(DistgradError, OSError):
    """What a tape keeps could not be written to a file, or not be read again.

    Causes: the disk is full, or its quota spent; the directory does not exist or is not writable;
    somebody removed or changed a file in the private folder.
    """


class LinAlgError(DistgradError, np.linalg.LinAlgError):
    """A matrix has not the property that an operation of linear algebra needs.

    Causes: a singular matrix to invert or to solve with, a matrix that is not positive definite
    for `distgrad.linalg.cholesky`, a NaN or an infinity that keeps an iteration from converging.
    It is a `numpy.linalg.LinAlgError` (and so a `ValueError`) too. CuPy looks for such matrices
    only within ``cupyx.errstate(linalg="raise")`` and returns NaN otherwise.
    """


class MatrixShapeError(ShapeError, LinAlgError):
    """An operation of linear algebra got an array of less than two axes, or no square matrix."""


class LinearityError(DistgradError, ValueError):
    """The rule of a `distgrad.custom_jvp` is not linear in the tangents.

    Cause: it takes a function such as a square or an absolute value of a tangent, or multiplies two
    of them; a derivative in a direction is linear in the direction.
    """


class ShardedValueError(DistgradError, RuntimeError):
    """A variable was asked for its value while its parts lie on several ranks.

    Cause: with ``dg.distributed.ShardedOptimizer(stage=3)`` a variable is whole only within its
    block, and where an operation reads it. To look at it, all ranks gather it:
    ``with optimizer.gathered(variable): ...``.
    """


class CheckpointError(DistgradError, RuntimeError):
    """A checkpoint cannot be written or read; the subclasses say why."""


class CheckpointWriteError(CheckpointError):
    """A checkpoint was not written; every rank raises it, and those before it are whole.

    Causes: a full disk, a quota, a directory that may not be written to or that the ranks do not
    share.
    """


class DamagedCheckpointError(CheckpointError, ValueError):
    """A file is no whole checkpoint: truncated, changed, foreign, or made to mislead.

    The message names the file, and the byte range or the name that is wrong in it.
    """


class MissingCheckpointError(CheckpointError, LookupError):
    """A directory holds no complete checkpoint, or none of the step that was asked for."""


class CheckpointMismatchError(CheckpointError, KeyError):
    """A checkpoint holds other variables than those to be loaded: missing, extra or unlike ones.

    Nothing was assigned when it is raised.
    """

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would show it in quotes


class CheckpointWarning(UserWarning):
    """A checkpoint goes on otherwise than the training that saved it would have.

    A damaged or incomplete one was passed over for an older one; one lacks the generators of a
    model; or the ranks' generators, of which one state is saved, have drawn differently.
    """


class CacheError(DistgradError, OSError):
    """The user's cache folder cannot be used: not to be made, or not the user's alone.

    The message names the folder and the remedy.
    """
