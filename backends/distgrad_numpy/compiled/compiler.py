"""The user's C++ compiler: find it, run it, and keep what it makes in the user's cache.

A library's name tells all that its code depends on (source, headers, compiler, options, processor)
and ends in a digest of its own bytes: it appears in one step, several processes may make it at
once, and what is truncated or from elsewhere is not loaded but made anew.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from distgrad.errors import DistgradError
from distgrad.user_cache import cache_folder, check_owner

_PATIENCE = 180  # seconds; a compiler that hangs is to end
_SCRATCH = ".compiling-"  # what the folder begins with in which a compiler works

# Libraries of users' functions, whose number has no end, begin so; kept that long after a use.
FUSED = "fused-"
_KEPT = 60 * 86400  # seconds

# Subnormal numbers are kept: with -ffast-math, gcc's start-up code would switch them off for the
# whole process. Sums may be reordered where a pragma of the source says so, and nowhere else.
_OPTIONS = (
    *("-std=c++17", "-O3", "-fPIC", "-shared", "-fvisibility=hidden", "-fopenmp-simd"),
    *("-fno-math-errno", "-fno-trapping-math", "-fno-exceptions"),
    *("-fno-rtti", "-Wno-psabi", "-x", "c++"),
)
_FOR_THIS_PROCESSOR = (  # the first that is understood
    ("-march=native", "-mprefer-vector-width=512"),
    ("-march=native",),
    ("-mcpu=native",),
    (),
)


class CompilerError(DistgradError, RuntimeError):
    """A C++ compiler is not there, or does not compile the kernels."""


class NoCompilerError(CompilerError):
    """No C++ compiler is there."""


def library(
    name: str, source: str, headers: Path, exact: bool, further: Sequence[str] = ()
) -> ctypes.CDLL:
    """Return the loaded library of a source, compiled unless the cache has it.

    Parameters
    ----------
    name : str
        What its file's name begins with.
    source : str
        C++.
    headers : Path
        The folder of the headers that it includes.
    exact : bool
        Whether a product and a sum are never rounded at once.
    further : sequence of str
        More options for the compiler.

    Raises
    ------
    CompilerError
        If there is no compiler, or it fails.
    CacheError
        If the cache folder cannot be used.
    OSError
        If the library cannot be loaded, as from a file system without execution.
    """
    folder = cache_folder("kernels")
    options = (*_OPTIONS, f"-ffp-contract={'off' if exact else 'fast'}")
    parts = (source, _text_of(headers), _version(), *options, *further, _processor())
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
    for found in folder.glob(f"{name}-{key}-*.so"):
        if _is_whole(found):
            if name.startswith(FUSED):
                found.touch()
            return ctypes.CDLL(str(found))
    return ctypes.CDLL(str(_made(folder, f"{name}-{key}", source, headers, options, further)))


def compiler_name() -> str:
    """Return the compiler's command and where its program is.

    Raises
    ------
    CompilerError
        If there is none.
    """
    words = _words()
    return f"{' '.join(words)} ({Path(words[0]).resolve()})"


@cache
def _version() -> str:
    """Return what tells the compiler's version without running it."""
    facts = Path(_words()[0]).stat()
    return f"{compiler_name()} {facts.st_size} {facts.st_mtime_ns}"


def _made(
    folder: Path,
    stem: str,
    source: str,
    headers: Path,
    options: tuple[str, ...],
    further: Sequence[str],
) -> Path:
    _remove_abandoned(folder)
    with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=folder) as scratch:
        code, made = Path(scratch, "kernel.cpp"), Path(scratch, "kernel.so")
        code.write_text(source, encoding="utf-8")
        words = [
            *_words(),
            *options,
            f"-I{headers}",
            "-o",
            str(made),
            str(code),
            "-x",
            "none",
            *further,
        ]
        for native in _FOR_THIS_PROCESSOR:
            try:
                _run([*words, *native])
                break
            except CompilerError:
                if not native:
                    raise
        digest = hashlib.sha256(made.read_bytes()).hexdigest()[:24]
        whole = folder / f"{stem}-{digest}.so"
        made.chmod(0o700)
        made.replace(whole)
    return whole


def _remove_abandoned(folder: Path) -> None:
    """Remove what killed processes have left, and the code of functions that nobody calls now."""
    oldest = time.time() - len(_FOR_THIS_PROCESSOR) * _PATIENCE
    for left in folder.glob(f"{_SCRATCH}*"):
        with suppress(OSError):  # another process may remove it, too
            if left.stat().st_mtime < oldest:
                shutil.rmtree(left)
    unused = time.time() - _KEPT
    for left in folder.glob(f"{FUSED}*.so"):
        with suppress(OSError):
            if left.stat().st_mtime < unused:
                left.unlink()


def _is_whole(path: Path) -> bool:
    check_owner(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()[:24] == path.stem.rsplit("-", 1)[1]


@cache
def _text_of(headers: Path) -> str:
    return "\0".join(each.read_text(encoding="utf-8") for each in sorted(headers.glob("*.hpp")))


@cache
def _words() -> tuple[str, ...]:
    """Return how the compiler is called: what CXX says, or the first that is there."""
    given = os.environ.get("CXX", "").split()
    for words in [given] if given else [["c++"], ["g++"], ["clang++"]]:
        path = shutil.which(words[0])
        if path is not None:
            return (path, *words[1:])
    looked = given[0] if given else "c++, g++ and clang++"
    raise NoCompilerError(
        f"no C++ compiler was found (looked for {looked}); install one, such as Debian's package "
        "g++, or name it in CXX"
    )


def _run(words: list[str]) -> str:
    try:
        done = subprocess.run(  # noqa: S603  the user's own compiler
            words,
            check=True,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=_PATIENCE,
        )
    except subprocess.TimeoutExpired as error:
        raise CompilerError(f"{words[0]} did not end within {_PATIENCE} s") from error
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines() or [f"exit status {error.returncode}, no message"]
        errors = (line for line in said if "error" in line and not line.startswith("collect2"))
        first = next(errors, said[0])  # a linker's own line says what it lacks
        raise CompilerError(f"{words[0]} failed: {first.strip()}") from error
    except OSError as error:
        raise CompilerError(f"{words[0]} does not run: {error.strerror}") from error
    return done.stdout


@cache
def _processor() -> str:
    """Return what tells processors apart, since code for one may be illegal on another."""
    return "\n".join((platform.machine(), platform.processor(), *_features()))


def _features() -> Iterator[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for wanted in ("model name", "flags", "Features"):
        for line in lines:
            if line.split(":")[0].strip() == wanted:
                yield line
                break
