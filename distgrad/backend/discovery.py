"""Find backends by the entry points of installed packages: one by name, on first use."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from distgrad.backend.protocol import API_VERSION, Backend
from distgrad.errors import BackendUnavailableError, UnknownBackendError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "distgrad.backends"
_REMEDY = {
    "numpy": "pip install -e . (in the checkout)",
    "cupy": "pip install 'distgrad[cuda12]' or 'distgrad[cuda13]', on a machine with a CUDA device",
}


@dataclass(frozen=True)
class BackendStatus:
    """Whether a backend works here, and if not, why.

    Attributes
    ----------
    name : str
        The backend's name.
    ok : bool
        Whether it was loaded.
    reason : str
        Why not, with the remedy; empty where it was.
    """

    name: str
    ok: bool
    reason: str = ""


_loaded: dict[str, Backend] = {}


@cache
def _entry_points() -> dict[str, EntryPoint]:
    # Imported here: reading installed metadata costs half of what importing distgrad does.
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=GROUP)}


def known() -> tuple[str, ...]:
    """Return the names of the backends that installed packages offer, without importing any."""
    return tuple(sorted(_entry_points()))


@cache
def load(name: str) -> Backend:
    """Return the backend of a name, importing its package on first use.

    Raises
    ------
    UnknownBackendError
        If no installed package offers a backend of this name.
    BackendUnavailableError
        If its package, or the device, is missing, or it speaks another version of the protocol.
    """
    points = _entry_points()
    if name not in points:
        from difflib import get_close_matches  # for messages alone

        near = get_close_matches(name, points, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UnknownBackendError(
            f"backend {name!r} is unknown; installed packages offer: "
            f"{', '.join(sorted(points)) or 'none (pip install -e . in the checkout)'}{hint}"
        )
    remedy = _REMEDY.get(name, f"reinstall the package that offers it ({points[name].value})")
    try:
        backend: Backend = points[name].load()()
    except BackendUnavailableError as error:  # it says what is missing, and its remedy
        raise BackendUnavailableError(f"backend {name!r} cannot be loaded: {error}") from error
    except Exception as error:
        raise BackendUnavailableError(
            f"backend {name!r} cannot be loaded: {error}; remedy: {remedy}"
        ) from error
    if backend.api_version != API_VERSION:
        raise BackendUnavailableError(
            f"backend {name!r} speaks version {backend.api_version} of the backend protocol; "
            f"expected {API_VERSION}; remedy: install versions of both packages that match"
        )
    # Of threads that come first at once, all get the same one.
    return _loaded.setdefault(name, backend)


def status() -> tuple[BackendStatus, ...]:
    """Return for each known backend whether it works here, or why not; loads each of them."""
    result = []
    for name in known():
        try:
            load(name)
        except BackendUnavailableError as error:
            result.append(BackendStatus(name, ok=False, reason=str(error)))
        else:
            result.append(BackendStatus(name, ok=True))
    return tuple(result)
