"""With DISTGRAD_AS_INSTALLED=1 the scripts take a Python as it is, and install nothing."""

import sys

import pytest

# A Python whose pytest only says what it was started with; everything else is done.
PYTHON = """#!/bin/sh
case "$*" in
    *"import xdist"*) exit 1 ;;
    *"-m pytest"*) echo "path $PYTHONPATH, device $DISTGRAD_GPU"; echo "{closing}"; exit {status} ;;
    *"-m pip"*) echo "nothing may be installed" >&2; exit 7 ;;
esac
exec "{python}" "$@"
"""
SMI = """#!/bin/sh
echo "Driver Version: 580.159.04  CUDA Version: 13.0"
"""


@pytest.fixture
def run(checkout, tmp_path, monkeypatch):
    """A function that runs the stage of the GPU in a checkout with a device that pretends."""
    (checkout.root / "pyproject.toml").write_text(
        '[project]\nname = "distgrad"\n'
        '[project.entry-points."distgrad.backends"]\ncupy = "distgrad_cupy:create"\n'
    )
    (checkout.root / "distgrad" / "__init__.py").write_text('__version__ = "1.2"\n')
    programs = tmp_path / "programs"
    programs.mkdir()
    path = f"{programs}:/usr/local/bin:/usr/bin:/bin"

    def run(status=0, closing="5 passed in 0.42s"):
        own = PYTHON.format(python=sys.executable, status=status, closing=closing)
        for name, text in (("nvidia-smi", SMI), ("a-python", own)):
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        settings = {"DISTGRAD_PYTHON": str(programs / "a-python"), "PYTHONPATH": "/some/wheels"}
        return checkout.run("test", "gpu", DISTGRAD_AS_INSTALLED="1", PATH=path, **settings)

    return run


def test_its_packages_and_the_checkout_are_what_the_tests_see(run, checkout):
    result = run()

    assert result.returncode == 0, result.stdout + result.stderr
    log = (checkout.root / ".environments" / "logs" / "gpu.log").read_text()
    root = checkout.root.resolve()
    site = root / ".environments" / "cuda13" / "site"
    assert f"path {root}:{root}/backends:{site}:/some/wheels, device required" in log
    assert result.stdout.splitlines()[-1] == "5 passed, 0 failed"


def test_entry_points_are_those_of_the_checkout(run, checkout):
    run()

    site = checkout.root / ".environments" / "cuda13" / "site"
    points = (site / "distgrad-1.2.dist-info" / "entry_points.txt").read_text()
    assert points == "[distgrad.backends]\ncupy = distgrad_cupy:create\n"


def test_a_device_that_cannot_be_used_fails_the_stage(run):
    result = run(status=4, closing="")

    assert result.returncode == 1
    assert "FAILED (exit status 4)" in result.stdout
