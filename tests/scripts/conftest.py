"""A stand-in for a checkout whose environments hold programs that only pretend, and scripts/."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]

# What an environment's python answers: `environment.sh` asks whether it works at all.
PYTHON = """#!/bin/sh
case "$*" in
    "-c import sys, pip") exit 0 ;;
    "-m pip "*) echo "$*" >>"{record}"; exit 0 ;;
esac
{behaviour}
"""


class FakeCheckout:
    """A folder with this checkout's shell scripts and environments of programs that pretend."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.record = root / "record"
        (root / "scripts").mkdir(parents=True)
        (root / "distgrad").mkdir()
        for name in ("quickstart", "test", "environment.sh"):
            shutil.copy(CHECKOUT / "scripts" / name, root / "scripts" / name)
        (root / "pyproject.toml").write_text("[project]\n")

    def make_environment(self, name: str, extras: str, **programs: str) -> None:
        """Make an environment that counts as installed; `programs` are bodies in sh."""
        folder = self.root / ".environments" / name
        (folder / "bin").mkdir(parents=True)
        behaviour = programs.pop("python", "exit 0")
        programs["python"] = PYTHON.format(record=self.record, behaviour=behaviour)
        for program, text in programs.items():
            path = folder / "bin" / program
            path.write_text(text if text.startswith("#!") else f"#!/bin/sh\n{text}\n")
            path.chmod(0o755)
        with (self.root / "pyproject.toml").open() as file:
            checksum = subprocess.check_output(["/usr/bin/env", "cksum"], stdin=file, text=True)
        stamp = f"{self.root.resolve()}\n{extras} {checksum}"
        (folder / "installed-by-distgrad").write_text(stamp)

    def run(self, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        """Run one of the scripts and return what it printed."""
        return subprocess.run(
            [str(self.root / "scripts" / script), *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            cwd="/",
            stdin=subprocess.DEVNULL,
            env={**os.environ, **environment},
        )


@pytest.fixture
def checkout(tmp_path):
    """Return a fake checkout in a folder with a space in its name."""
    return FakeCheckout(tmp_path / "a checkout")


@pytest.fixture(scope="session")
def list_kills():
    """Return scripts/list_kills.py as a module: `scripts` is no package."""
    folder = CHECKOUT / "scripts"
    specification = importlib.util.spec_from_file_location("list_kills", folder / "list_kills.py")
    module = importlib.util.module_from_spec(specification)
    sys.path.insert(0, str(folder))  # as for a script that is run
    specification.loader.exec_module(module)
    yield module
    sys.path.remove(str(folder))


@pytest.fixture(scope="session")
def chains(list_kills):
    """Return the module that starts jobs and kills them."""
    return sys.modules["kill_cases.chains"]
