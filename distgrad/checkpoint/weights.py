"""Weights by name in plain safetensors files: those of other libraries, and for them."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from distgrad.backend.protocol import Backend
from distgrad.checkpoint.files import created, describe_failure, flush_directory, opened, read_into
from distgrad.checkpoint.leaves import Shard, collect
from distgrad.checkpoint.tensor_file import (
    decode_json,
    is_safe_name,
    read_entry,
    read_header,
    storable,
    write_arrays,
)
from distgrad.eager import asarray
from distgrad.errors import CheckpointMismatchError, CheckpointWriteError, DamagedCheckpointError
from distgrad.tensor import Tensor

_LONGEST_INDEX = 1 << 26  # bytes


def load_safetensors(
    path: str | os.PathLike[str],
    *,
    names: Mapping[str, str] | Callable[[str], str | None] | None = None,
    backend: str | Backend | None = None,
) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file by name.

    Parameters
    ----------
    path : path
        The file; or the index of several (``model.safetensors.index.json``), which lie beside it.
    names : mapping or callable, optional
        How the file's names are to be called here. Of a mapping, only the names in it are read. A
        callable gets each name, and returns the new one, or None to leave the tensor out.
    backend : str or Backend, optional
        Where the tensors live; the backend in force by default.

    Raises
    ------
    DamagedCheckpointError
        If the file breaks the format; the message says which byte range or name is wrong.
    CheckpointMismatchError
        If a name of the mapping is not in the file, or two tensors would get one name.

    Notes
    -----
    The format has no checksum: a changed number in such a file cannot be seen. bfloat16 needs the
    package ml_dtypes. The path may be a symbolic link, as in the caches of model hubs.
    """
    path = Path(path)
    tensors: dict[str, Tensor] = {}
    found: set[str] = set()
    for file, expected in _files(path):
        with opened(file, follow=True) as descriptor:
            header = read_header(descriptor, file)
            for name, entry in header.entries.items():
                if expected is not None and name not in expected:
                    continue
                found.add(name)
                own = _renamed(name, names)
                if own is None:
                    continue
                if own in tensors:
                    raise CheckpointMismatchError(
                        f"load_safetensors: {path}: two tensors would be called {own!r}, "
                        f"{name!r} is the second"
                    )
                tensors[own] = asarray(read_entry(descriptor, entry, file), backend=backend)
            missing = sorted((expected or set()) - set(header.entries))
            if missing:
                raise DamagedCheckpointError(
                    f"{file}: has no tensor {missing[0]!r}, which {path.name} promises"
                )
    if isinstance(names, Mapping):
        absent = sorted(set(names) - found)
        if absent:
            raise CheckpointMismatchError(
                f"load_safetensors: {path} has no {', '.join(map(repr, absent[:5]))}; it has "
                f"{', '.join(map(repr, sorted(found)[:5]))}{' ...' if len(found) > 5 else ''}"
            )
    return tensors


def save_safetensors(
    path: str | os.PathLike[str], nest: Any, *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write the arrays of a nest to one safetensors file, under their paths, for other libraries.

    Parameters
    ----------
    path : path
        The file; one that is there is replaced once the new one is whole.
    nest : nest
        Of variables, tensors and arrays, and objects with `variables`; generators of models are
        left out.
    metadata : mapping of str to str, optional
        Put into the header.

    Raises
    ------
    TypeError, ValueError
        If the nest holds anything else, or the format does not allow a path, a dtype or metadata.
    CheckpointWriteError
        If the file cannot be written; one that was there stays.

    Notes
    -----
    One process writes: under `mpirun`, call it on one rank.
    """
    path = Path(path)
    _check_metadata(metadata or {})
    arrays = {}
    for name, leaf in collect(nest).items():
        if leaf.accompanies:
            continue
        if leaf.kind != "array" or isinstance(leaf.value, Shard):
            raise TypeError(
                f"save_safetensors: {name!r} is a {type(leaf.value).__name__}; expected arrays "
                "alone: distgrad.checkpoint.save takes the rest"
            )
        if leaf.dtype == "complex128":
            raise TypeError(
                f"save_safetensors: {name!r} has dtype complex128, which the format lacks; "
                "give real and imaginary part, or complex64"
            )
        if not is_safe_name(name):
            raise ValueError(
                f"save_safetensors: the name {name!r} is empty, not printable, absolute, or has "
                "'..' in it; readers would refuse it"
            )
        arrays[name] = storable(leaf.host())
    aside = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    try:
        try:
            with created(aside) as descriptor:
                write_arrays(descriptor, arrays, {"format": "np", **(metadata or {})})
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
        flush_directory(path.parent)
    except OSError as error:
        raise CheckpointWriteError(
            f"save_safetensors: {path} was not written: {describe_failure(error, path.parent)}"
        ) from error


def _check_metadata(metadata: Mapping[str, str]) -> None:
    for pair in metadata.items():
        for text in pair:
            if not isinstance(text, str):
                raise TypeError(
                    f"save_safetensors: metadata has {text!r}, of type {type(text).__name__}; the "
                    "format holds strings alone: give str(...) of it"
                )


def _files(path: Path) -> list[tuple[Path, set[str] | None]]:
    """Return the files to read, and the names to read from each; None for all."""
    if path.suffix != ".json":
        return [(path, None)]
    with opened(path, follow=True) as descriptor:
        size = os.fstat(descriptor).st_size
        if size > _LONGEST_INDEX:
            raise DamagedCheckpointError(f"{path}: has {size} bytes; expected an index")
        text = bytearray(size)
        read_into(descriptor, memoryview(text), 0, path)
    table = decode_json(bytes(text), path, f"bytes 0 to {size}").get("weight_map")
    if not isinstance(table, dict) or not all(isinstance(each, str) for each in table.values()):
        raise DamagedCheckpointError(f"{path}: has no weight_map of names and files")
    files: dict[str, set[str]] = {}
    for name, file in table.items():
        if "/" in file or not is_safe_name(file) or file == ".":
            raise DamagedCheckpointError(
                f"{path}: the file name {file[:100]!r} of {name[:100]!r} is refused: expected one "
                "in the same directory"
            )
        files.setdefault(file, set()).add(name)
    return [(path.parent / file, own) for file, own in files.items()]


def _renamed(
    name: str, names: Mapping[str, str] | Callable[[str], str | None] | None
) -> str | None:
    if names is None:
        return name
    return names.get(name) if isinstance(names, Mapping) else names(name)
