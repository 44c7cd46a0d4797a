"""Compile the CUDA sources of this package, and start their kernels.

A source stands in `cuda/` and is compiled for one type of elements at a time: `T` is how they are
stored, `A` in what they are added up. Whoever prepares a kernel's arguments asks a `Runner` for
it, so that tests run the same preparation, and the same source, on the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from distgrad.ops import VOCABULARY

Array = Any

FOLDER = Path(__file__).parent / "cuda"

# What each source reads before itself, and what it wants of the compiler.
_INCLUDES = {
    "attention": ("reducing.cuh",),
    **dict.fromkeys(("softmax", "norms"), ("reducing.cuh", "held.cuh")),
    "channels": ("held.cuh",),
    **dict.fromkeys(("philox", "variates"), ("philox.cuh",)),
    **dict.fromkeys(("bessel", "modified_bessel"), ("descent.cuh",)),
}
# Up to 1024 threads share a row, and 65 536 registers.
_OPTIONS = {
    **dict.fromkeys(("philox", "variates"), ("--fmad=false",)),
    **dict.fromkeys(("softmax", "norms", "attention"), ("--maxrregcount=64",)),
}

# The types of elements: how they are stored, and what they are added up in.
ELEMENTS = {
    "float16": ("float16", "float"),
    "bfloat16": ("bfloat16", "float"),
    "float32": ("float",) * 2,
    "float64": ("double",) * 2,
}
HALVES = ("float16", "bfloat16")  # CuPy has a header for the class of each

_NAMES = {
    np.dtype(name): name
    for name in (*ELEMENTS, "int32", "int64", "complex64", "complex128")
    if name != "bfloat16"  # which NumPy knows once somebody has named it, see `distgrad.dtypes`
}

THREADS = 256  # of a block whose threads know nothing of each other
_MOST_BLOCKS = 65_535  # of a grid; kernels go on in strides


class Runner(Protocol):
    """What starts kernels on one kind of array.

    Attributes
    ----------
    module : module
        The arrays' module, such as CuPy.
    device : int or None
        The device on which kernels are started; None for the host.
    is_capturing : bool
        Whether what is started now is noted for a graph, and not done: nobody can wait for it.
    """

    module: Any

    @property
    def device(self) -> int | None:
        """The current device."""
        ...

    @property
    def is_capturing(self) -> bool:
        """Whether the current stream is being captured."""
        ...

    def launch(
        self,
        source: str,
        name: str,
        elements: str,
        grid: tuple[int, ...],
        threads: int,
        arguments: Sequence[Any],
    ) -> None:
        """Start a kernel.

        Parameters
        ----------
        source : str
            The file in `cuda/` without its ending.
        name : str
            The kernel.
        elements : str
            The dtype that it is compiled for.
        grid : tuple of int
            How many blocks there are, along one to three axes.
        threads : int
            How many threads a block has.
        arguments : sequence
            Contiguous arrays, NumPy's scalars of the types that the kernel declares, and None for
            a null pointer.
        """
        ...

    def launch_text(
        self, text: str, name: str, grid: tuple[int, ...], threads: int, arguments: Sequence[Any]
    ) -> None:
        """Start a kernel of a text that was written for it; the rest as for `launch`."""
        ...

    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        """Return the products of stacks of matrices, written into `out` if that is given."""
        ...

    def wide_matmul(self, a: Array, b: Array) -> Array:
        """Return products in the dtype in which elements are added up, see `addition_dtype`."""
        ...

    def namespace(self) -> Any:
        """Return the vocabulary on these arrays, for what a kernel does not take."""
        ...


def composed(run: Runner, name: str, *arrays: Array, **params: Any) -> Any:
    """Return an operation of arrays that no kernel takes, in terms of other operations.

    Parameters
    ----------
    run : Runner
        What starts these.
    name : str
        The operation, which has a composition.
    *arrays : array
        Its operands.
    **params
        Its metadata.

    Returns
    -------
    array, tuple of array or NotImplemented
        The last where an array is of bfloat16: each operation of the composition would round, where
        the caller, `distgrad.backend.widening`, computes all in float32 and rounds once.
    """
    if any(is_bfloat16(each) for each in arrays):
        return NotImplemented
    compose: Any = VOCABULARY[name].compose
    return compose(run.namespace(), *arrays, **params)


def source_of(source: str, elements: str) -> str:
    """Return the text of a source, to be compiled for one dtype of elements."""
    stored, added = ELEMENTS[elements]
    types = f"{headers((elements,))}typedef {stored} T;\ntypedef {added} A;\n"
    files = (*_INCLUDES.get(source, ()), f"{source}.cu")
    return types + "\n".join((FOLDER / name).read_text(encoding="ascii") for name in files)


def headers(names: Iterable[str]) -> str:
    """Return the lines by which a source knows the dtypes of some names."""
    own = set(names)
    return "".join(f"#include <cupy/{name}.cuh>\n" for name in HALVES if name in own)


def options_of(source: str) -> tuple[str, ...]:
    """Return what a source wants of the compiler."""
    return ("--std=c++17", *_OPTIONS.get(source, ()))


def sources() -> tuple[str, ...]:
    """Return the names of all sources."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.cu")))


def blocks_for(count: int) -> int:
    """Return how many blocks compute `count` elements, one or more each thread."""
    return max(1, min(-(-count // THREADS), _MOST_BLOCKS))


def threads_for_row(width: int, each: int = 4) -> int:
    """Return how many threads share a row: whole warps, `each` elements a thread at first."""
    threads = 32
    while threads < 1024 and threads * each < width:
        threads *= 2
    return threads


def name_of(dtype: Any) -> str:
    """Return the name of a dtype, which NumPy takes a microsecond and a half to make up."""
    name = _NAMES.get(dtype)
    if name is None:
        name = _NAMES[dtype] = dtype.name
    return name


def is_bfloat16(operand: Any) -> bool:
    """Return whether an operand is an array of bfloat16."""
    dtype = getattr(operand, "dtype", None)
    return dtype is not None and name_of(dtype) == "bfloat16"


def addition_dtype(elements: str) -> np.dtype[Any]:
    """Return the dtype in which elements are added up."""
    return np.dtype(np.float64 if elements == "float64" else np.float32)


def address_of(array: Array) -> int:
    """Return where an array's elements lie, CuPy's or NumPy's."""
    return int(array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr)


def line_of(array: Array, device: int | None) -> int | None:
    """Return where an array lies; None unless it is one line in the memory of a device.

    Parameters
    ----------
    array : array
        CuPy's, or NumPy's.
    device : int or None
        The device; None for the host.

    Notes
    -----
    CuPy's `flags` take half a microsecond for each array, as long as all the rest that a step of an
    optimizer asks of it; the attribute behind them takes a tenth.
    """
    if device is None:
        return int(array.ctypes.data) if array.flags.c_contiguous else None
    own = getattr(array, "_c_contiguous", None)
    is_line = array.flags.c_contiguous if own is None else own
    data = array.data
    return data.ptr if is_line and data.device_id == device else None


def refuse_elsewhere(run: Runner, name: str, arguments: Iterable[Any]) -> None:
    """Raise if an array lies on another device than the one on which kernels are started.

    Parameters
    ----------
    run : Runner
        What starts them.
    name : str
        The kernel.
    arguments : iterable
        Arrays, and others, which are not looked at.

    Raises
    ------
    ValueError
        If one does: it would be read without waiting for what computes it there, or not at all.
    """
    device, array_type = run.device, run.module.ndarray
    if device is None:
        return
    for each in arguments:
        if isinstance(each, array_type) and each.data.device_id != device:
            there = each.data.device_id
            raise ValueError(
                f"{name}: expected arrays on the current device, cuda:{device}, got one on "
                f"cuda:{there}; compute within `with cupy.cuda.Device({there}):`, or move it "
                f"by .to(device='cuda:{device}')"
            )


class DeviceRunner:
    """Starts kernels on CuPy's arrays, on the current device and its current stream.

    Parameters
    ----------
    module : module
        CuPy.
    namespace : callable
        Returns the vocabulary on CuPy's arrays.
    products : Products
        What multiplies matrices.
    """

    def __init__(self, module: Any, namespace: Callable[[], Any], products: Any) -> None:
        self.module = module
        self.namespace = namespace
        self.matmul = self.here("matmul", products.matmul)
        self.wide_matmul = self.here("matmul", products.wide_matmul)
        self._kernel = cache(self._compiled)
        self._own = cache(self._of_text)

    @property
    def device(self) -> int | None:
        """The current device."""
        return int(self.module.cuda.runtime.getDevice())

    @property
    def is_capturing(self) -> bool:
        """Whether the current stream is being captured, by this package or by the user."""
        return bool(self.module.cuda.get_current_stream().is_capturing())

    def _compiled(self, source: str, name: str, elements: str) -> Callable[..., None]:
        return self._raw(source_of(source, elements), name, options_of(source))

    def _of_text(self, text: str, name: str) -> Callable[..., None]:
        return self._raw(text, name, options_of(""))

    def _raw(self, text: str, name: str, options: tuple[str, ...]) -> Callable[..., None]:
        kernel: Callable[..., None] = self.module.RawKernel(text, name, options=options)
        return kernel

    def launch(
        self,
        source: str,
        name: str,
        elements: str,
        grid: tuple[int, ...],
        threads: int,
        arguments: Sequence[Any],
    ) -> None:
        """Start a kernel; see `Runner`.

        Raises
        ------
        ValueError
            If an array lies on another device: the kernel's access would end all use of this one.
        """
        refuse_elsewhere(self, name, arguments)
        self._kernel(source, name, elements)(grid, (threads,), tuple(arguments))

    def here(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return what calls a library that does not look where arrays lie, once they are here.

        Raises
        ------
        ValueError
            If an array lies on another device.
        """

        def checked(*arrays: Any, **params: Any) -> Any:
            refuse_elsewhere(self, name, arrays)
            return function(*arrays, **params)

        return checked

    def launch_text(
        self, text: str, name: str, grid: tuple[int, ...], threads: int, arguments: Sequence[Any]
    ) -> None:
        """Start a kernel of a text; see `Runner`."""
        self._own(text, name)(grid, (threads,), tuple(arguments))
