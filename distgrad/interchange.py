"""Interchange: hand arrays to other libraries without copying, and move them between devices."""

from __future__ import annotations

import sys
from opcode import opmap
from typing import Any

import numpy as np

from distgrad.backend.discovery import load
from distgrad.backend.protocol import Backend
from distgrad.core.seam import LISTENERS, apply
from distgrad.ops.elementwise import arithmetic
from distgrad.ops.shaping import structure
from distgrad.ops.shaping.placement import to_device

_API_VERSIONS = ("2021.12", "2022.12", "2023.12", "2024.12")


class Interchange:
    """The protocols by which other libraries take arrays, for whatever can be read as a tensor."""

    __slots__ = ()

    def read(self) -> Any:
        """Return the value as a tensor."""
        raise TypeError(f"{type(self).__name__} defines no value to read")

    # --- the Python array API standard ----------------------------------------------------------

    def __array_namespace__(self, /, *, api_version: str | None = None) -> Any:
        if api_version is not None and api_version not in _API_VERSIONS:
            raise ValueError(
                f"__array_namespace__: api_version is {api_version!r}; expected one of "
                f"{', '.join(_API_VERSIONS)}, or None"
            )
        return sys.modules["distgrad"]  # the face stands above everything, and is imported first

    def to(self, *, backend: str | Backend | None = None, device: str | None = None) -> Any:
        """Return the value on another backend or device; its gradient comes back to this one.

        Parameters
        ----------
        backend : str or Backend, optional
            Where to; the value is copied by way of the host.
        device : str, optional
            A device of that backend, or of the value's own.

        Raises
        ------
        UnknownBackendError, BackendUnavailableError
            If there is no such backend, or it does not work here.
        ValueError
            If the backend has no such device.
        """
        tensor = self.read()
        source = tensor.kernels.backend
        target = source if backend is None else backend
        target = load(target) if isinstance(target, str) else target
        if target is not source:
            moved = apply(structure.TRANSFER, self, source=source, backend=target)
            return to_device(moved, device)
        if device is not None and device != tensor.device:
            return to_device(tensor, device)
        return tensor if tensor is self else apply(arithmetic.POSITIVE, tensor)

    def to_device(self, device: str, /, *, stream: Any = None) -> Any:
        """Return the value on another device of its backend; its gradient comes back to this one.

        Parameters
        ----------
        device : str
            As `device` names it, such as ``"cpu"`` or ``"cuda:1"``.
        stream : optional
            Must be None: copies are ordered by the backend.

        Raises
        ------
        ValueError
            If there is no such device, or a stream is given.
        """
        if stream is not None:
            raise ValueError(f"to_device: stream is {stream!r}; expected None")
        return self.to(device=device)

    # --- NumPy ----------------------------------------------------------------------------------

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        tensor = self.read()
        if self._is_followed():
            raise TypeError(
                "np.asarray on a tensor that a tape watches would cut its gradient; "
                "take t.numpy() for the values, or dg.stop_gradient(t) to cut on purpose "
                "(np.stack([s, t]), and not np.array([s, t]), joins tensors)"
            )
        view = tensor.kernels.backend.to_host(tensor.array).view()
        view.flags.writeable = False
        return np.array(view, dtype=dtype, copy=copy)

    def _refuse_store(self) -> None:
        """Raise if what asks for the number is ``array[i] = t``, where a tape watches the value.

        NumPy asks no `__array__` for a single element. So the caller's instruction is looked at:
        that of a subscript assigned, and not of a call, as ``float(t)`` is.
        """
        if LISTENERS.get() and self._is_followed():
            caller = sys._getframe(3)
            if caller.f_code.co_code[caller.f_lasti] == opmap.get("STORE_SUBSCR"):
                raise TypeError(
                    "array[i] = t, of a tensor that a tape watches, would cut its gradient; take "
                    "np.stack of a list, or a tensor's array.at[i].set(t); float(t) cuts on purpose"
                )

    def _is_followed(self) -> bool:
        """Return whether a tape that listens differentiates the value."""
        key = self.read().key
        return any(listener.follows(key) for listener in LISTENERS.get())

    # --- DLPack and CUDA: the backend's own array, as it is -------------------------------------

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[Any, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        array = self._handed_over("__dlpack__")
        options = {"max_version": max_version, "dl_device": dl_device, "copy": copy}
        given = {name: value for name, value in options.items() if value is not None}
        return array.__dlpack__(stream=stream, **given)

    def __dlpack_device__(self) -> tuple[Any, int]:
        device: tuple[Any, int] = self._handed_over("__dlpack_device__").__dlpack_device__()
        return device

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """The description of the array in device memory, where it lies in any."""
        array = self.read().array
        if not hasattr(array, "__cuda_array_interface__"):
            raise AttributeError(
                f"__cuda_array_interface__: the array lies on {self.read().device}, not on a CUDA "
                "device"
            )
        try:
            handed = self._handed_over("__cuda_array_interface__")
        except TypeError as error:
            # To who asks whether there is one, there is none: CuPy's operators leave what they do
            # not know to the operand, so that `array * t` is computed here, and recorded.
            raise AttributeError(*error.args) from None
        described: dict[str, Any] = handed.__cuda_array_interface__
        if described.get("typestr", "")[1:2] == "V":
            raise AttributeError(
                f"__cuda_array_interface__: it has no name for {self.read().dtype}; hand the array "
                "over by DLPack, or t.array itself"
            )
        return described

    def _handed_over(self, protocol: str) -> Any:
        """Return the raw array for another library, of which no tape hears."""
        tensor = self.read()
        if protocol != "__dlpack_device__" and self._is_followed():
            raise TypeError(
                f"{protocol} of a tensor that a tape watches would cut its gradient; hand over "
                "dg.stop_gradient(t) to cut on purpose, or t.numpy(), a copy of the values"
            )
        if tensor.kernels.level:
            tensor.kernels.backend.to_host(tensor.array)  # says that there is no array yet
        return tensor.array
