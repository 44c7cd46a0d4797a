"""``distgrad info``: what this environment has, and what it lacks, with the remedy."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import sys
from importlib import import_module, metadata
from typing import Any

import distgrad
from distgrad.backend.discovery import load, status
from distgrad.backends_in_force import current_kernels
from distgrad.distributed.launching.launchers import find_launcher, installed_wheels
from distgrad.distributed.launching.probing import Library, probe_library
from distgrad.distributed.launching.threads import THREAD_VARIABLES, threads_per_rank
from distgrad.dtypes import default_dtype
from distgrad.errors import CacheError, LaunchError
from distgrad.user_cache import cache_folder

_PACKAGES = ("numpy", "optree", "mpi4py", "cupy", "threadpoolctl", "ml_dtypes", "scipy", "rich")
_GIBIBYTE = 2**30

# The libraries, in mpi4py's names, that only their own launcher can start.
_FAMILIES = frozenset(("MPICH", "Open MPI", "Intel MPI"))


def add_parser(subparsers: Any) -> None:
    """Add the subcommand to a parser."""
    parser = subparsers.add_parser(
        "info",
        help="show versions, backends, devices, MPI and threads",
        description="Show versions, backends, devices, MPI and threads. MPI is not started.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(execute=_execute)


def _execute(given: argparse.Namespace) -> int:
    sections = {
        "versions": _versions(),
        "backends": _backends(),
        "devices": _devices(),
        "MPI": _mpi(probe_library()),
        "threads": _threads(),
        "compiled kernels": _compiled(),
    }
    if given.json:
        print(json.dumps(sections, indent=2))
        return 0
    for title, facts in sections.items():
        print(title)
        width = max(map(len, facts), default=0)
        for name, value in facts.items():
            print(f"  {name:{width}}  {value}")
    return 0


def _versions() -> dict[str, str]:
    facts = {
        "distgrad": distgrad.__version__,
        "Python": f"{platform.python_version()} ({sys.executable})",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }
    for name in _PACKAGES:
        version = _version_of(name)
        if version:
            facts[name] = version
    return facts


def _version_of(name: str) -> str:
    names = (
        (name, *(f"{name}-cuda{major}x" for major in (11, 12, 13))) if name == "cupy" else (name,)
    )
    for each in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(each)
    return ""


def _backends() -> dict[str, str]:
    facts = {each.name: "ok" if each.ok else each.reason for each in status()}
    in_force = current_kernels().backend.name
    return facts | {"in force": in_force, "default dtype": str(default_dtype())}


def _compiled() -> dict[str, str]:
    compiled = import_module("distgrad_numpy.compiled")
    if not compiled.is_on():
        return {"compiler": f"not asked: {compiled.SWITCH}=0 is set"}
    try:
        facts = {"compiler": compiled.compiler_name()}
    except compiled.CompilerError as error:
        return {"compiler": f"none: {error}"}
    try:
        facts["cache"] = str(cache_folder("kernels"))
    except CacheError as error:
        facts["cache"] = f"none: {error}"
    return facts


def _devices() -> dict[str, str]:
    facts = {
        "cpu": f"{len(os.sched_getaffinity(0))} cores for this process, {os.cpu_count()} in all"
    }
    if any(each.name == "cupy" and each.ok for each in status()):
        load("cupy")
        runtime = import_module("cupy").cuda.runtime
        for number in range(runtime.getDeviceCount()):
            properties = runtime.getDeviceProperties(number)
            name = properties["name"].decode()
            memory = properties["totalGlobalMem"] / _GIBIBYTE
            capability = f"{properties['major']}.{properties['minor']}"
            facts[f"cuda:{number}"] = f"{name}, {memory:.1f} GiB, compute capability {capability}"
    else:
        facts["cuda"] = "none that CuPy can use"
    return facts


def _mpi(library: Library) -> dict[str, str]:
    facts = {"mpi4py": library.mpi4py or "missing: pip install mpi4py mpich"}
    wheels = installed_wheels()
    facts["wheels"] = ", ".join(wheels) or "none: the system's MPI, if any"
    if library.vendor:
        facts["library"] = (
            f"{library.text}, MPI {library.standard} ({library.path or 'path unknown'})"
        )
        facts["device buffers"] = _device_buffers(library)
    elif library.mpi4py:
        facts["library"] = f"none: {library.reason}; pip install mpich"
    family = ""
    try:
        launcher = find_launcher()
    except LaunchError as error:
        facts["launcher"] = f"none: {error}"
    else:
        family = launcher.family
        facts["launcher"] = f"{launcher.path} ({family} {launcher.version})".replace(" )", ")")
    if family and library.vendor in _FAMILIES and family != library.vendor:
        facts["conflict"] = (
            f"{family}'s launcher starts what loads {library.vendor}: each would be a job of its "
            "own; pip install one MPI into this environment, and start with its mpirun"
        )
    return facts


def _device_buffers(library: Library) -> str:
    asked = f" ({', '.join(library.switches)} is set)" if library.switches else ""
    if library.takes_device_buffers:
        return f"taken: built with CUDA{asked}"
    if library.takes_device_buffers is None:
        return f"not taken as far as the library says{asked}; arrays go through host memory"
    return f"not taken: built without CUDA{asked}; arrays go through host memory"


def _threads() -> dict[str, str]:
    cores = len(os.sched_getaffinity(0))
    given = {name: os.environ[name] for name in sorted(THREAD_VARIABLES) if name in os.environ}
    facts = {name: f"{value} (set)" for name, value in given.items()}
    if not given:
        counts = [n for n in (1, 2, 4, 8) if n <= max(cores, 2)]
        shares = ", ".join(f"{threads_per_rank(n)} with {n}" for n in counts)
        facts["threads a rank"] = f"{shares} ranks on this machine"
    with contextlib.suppress(ImportError):
        from threadpoolctl import threadpool_info

        for each in threadpool_info():
            where = f"{each['internal_api']} {each['version'] or ''}".strip()
            facts[where] = f"{each['num_threads']} threads in this process"
    return facts
