"""The vocabulary on cupy.ndarray, from the kit for array modules.

Importing this module needs CuPy but no driver; `create` is what asks for a device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cupy
import numpy as np

from distgrad.backend.adapters import ADAPTERS
from distgrad.backend.kit import ArrayModuleBackend
from distgrad.backends_in_force import kernels_of
from distgrad.core.under_way import settle
from distgrad.errors import BackendUnavailableError
from distgrad_cupy import affine, elementwise, segments, special
from distgrad_cupy.capturing import Graphs
from distgrad_cupy.choosing import device_of_rank, why_no_device
from distgrad_cupy.copying import between_devices
from distgrad_cupy.cublas import cublas_library
from distgrad_cupy.cuda_kernels import cuda_kernels
from distgrad_cupy.kernel_cache import keep_private
from distgrad_cupy.narrow import bfloat16_kernels
from distgrad_cupy.passages import Passages
from distgrad_cupy.products import Products
from distgrad_cupy.regions import RegionKernels
from distgrad_cupy.running import DeviceRunner
from distgrad_cupy.staging import Staging
from distgrad_cupy.stepping import steps

_memory = cupy.cuda.memory
_OWN_MEMORY = (_memory.PooledMemory, _memory.Memory, _memory.MemoryAsync, _memory.ManagedMemory)


class CuPyBackend(ArrayModuleBackend):
    """CuPy as a backend, on the current CUDA device."""

    def __init__(self) -> None:
        super().__init__("cupy", cupy, KERNELS)
        self.pullback = elementwise.pullbacks(RUNNER, affine.pullbacks(RUNNER))
        self.fusion = RegionKernels(RUNNER)
        self.bfloat16_kernels = bfloat16_kernels(RUNNER, self.kernel)
        self.change_in_place = steps(RUNNER, elementwise.broadcasting)
        self.compile = GRAPHS
        self._staging = Staging(cupy, _pinned)
        self.passages = Passages(cupy, _pinned)

    def kernel(self, name: str) -> Callable[..., Any] | None:
        """Return the kernel of an operation, which refuses arrays where a library would not."""
        found = super().kernel(name)
        return RUNNER.here(name, found) if name in _TRANSFORMS and found else found

    def asarray(self, value: Any, *, dtype: np.dtype[Any] | None = None, copy: bool = False) -> Any:
        """Return a value as a CuPy array on the current device, copied if it lies elsewhere."""
        if not isinstance(value, cupy.ndarray):
            GRAPHS.transfers.refuse()
        elif value.data.device_id != (current := cupy.cuda.runtime.getDevice()):
            value, copy = between_devices(cupy, value, current), False
        return cupy.array(value, dtype=dtype) if copy else cupy.asarray(value, dtype=dtype)

    def settled(self, array: Any, former: Any) -> Any:
        """Return an array where a variable's former value lies, in memory that is CuPy's own.

        Memory of others, such as PyTorch's, may be changed in place by them or by an optimizer.
        """
        if array.data.device_id != former.data.device_id:
            return between_devices(cupy, array, former.data.device_id)
        if isinstance(array.data.mem, _OWN_MEMORY):
            return array
        with array.device:
            return array.copy()

    def to_host(self, array: Any) -> np.ndarray[Any, Any]:
        """Return an array's values in host memory, once they are computed."""
        GRAPHS.transfers.refuse()
        settle()
        return self._staging.to_host(array)

    def add_rows(self, array: Any, indices: Any, rows: Any) -> Any:
        """Return an array with rows added in place; those of one position in their order."""
        if segments.add_rows(RUNNER, array, indices, rows):
            return array
        return super().add_rows(array, indices, rows)

    def device(self, array: Any) -> str:
        """Return the CUDA device that holds the array, such as ``"cuda:0"``."""
        return f"cuda:{array.device.id}"

    def devices(self) -> tuple[str, ...]:
        """Return every CUDA device, the current one first."""
        current = f"cuda:{cupy.cuda.Device().id}"
        count = cupy.cuda.runtime.getDeviceCount()
        return (current, *(n for n in (f"cuda:{i}" for i in range(count)) if n != current))

    def to_device(self, array: Any, device: str) -> Any:
        """Return an array on another CUDA device, copied if it does not lie there.

        Raises
        ------
        ValueError
            If there is no such device.
        """
        if device == self.device(array):
            return array
        if device not in self.devices():
            raise ValueError(
                f"to_device: the backend 'cupy' has no device {device!r}; expected one of "
                f"{', '.join(self.devices())}"
            )
        return between_devices(cupy, array, int(device.partition(":")[2]))

    def synchronize(self) -> None:
        """Return once the current device has done all its work."""
        settle()
        cupy.cuda.Device().synchronize()


def create() -> CuPyBackend:
    """Return the backend; the value of the entry point ``cupy``.

    Under a launcher such as `mpirun` the process takes the device of its rank, see
    `distgrad_cupy.choosing`.

    Raises
    ------
    BackendUnavailableError
        If there is no CUDA device, or its driver does not answer.
    """
    runtime, count, status, cause = cupy.cuda.runtime, 0, 0, None
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        status, cause = error.status, error
    if not count:
        raise BackendUnavailableError(why_no_device(runtime, status)) from cause
    chosen = device_of_rank(count)
    if chosen is not None:
        cupy.cuda.Device(chosen).use()
    keep_private()
    return CuPyBackend()


def _pinned(nbytes: int) -> np.ndarray[Any, Any]:
    """Return bytes in pinned memory."""
    block = cupy.cuda.alloc_pinned_memory(nbytes)
    return np.frombuffer(block, np.uint8, nbytes)


def _astype(x: Any, dtype: Any) -> Any:
    return x.astype(dtype)


def _has(name: str) -> bool:
    return name in ("astype", *special.KERNELS, *ADAPTERS) or hasattr(cupy, name)


def _of_cupy(name: str) -> Callable[..., Any] | None:
    """Return CuPy's function of a name where it is an operation's kernel as it stands."""
    if name in special.KERNELS or name in ADAPTERS:
        return None
    function: Callable[..., Any] | None = getattr(cupy, name, None)
    return function


def _namespace() -> Any:
    return kernels_of("cupy")


_TRANSFORMS = frozenset("fft ifft rfft irfft".split())  # cuFFT reads from wherever it is told
PRODUCTS = Products(cupy, cublas_library)
RUNNER = DeviceRunner(cupy, _namespace, PRODUCTS)
GRAPHS = Graphs(RUNNER, PRODUCTS)
KERNELS: dict[str, Callable[..., Any]] = {
    "astype": elementwise.casting(RUNNER, _astype),
    **elementwise.large(RUNNER, _of_cupy),
    **special.KERNELS,
    "matmul": RUNNER.matmul,
    **cuda_kernels(RUNNER),
    **{op.name: elementwise.fused(op, RUNNER) for op in elementwise.operations(_has)},
}
