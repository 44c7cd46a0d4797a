"""Steps that free some megabytes do not give them back to the system each time."""

import os
import platform
import subprocess
import sys

import pytest

STEPS = """
import resource
import numpy as np
import distgrad as dg
dg.asarray([1.0]) + 1
def step():
    kept = [np.empty(1_000_000 + 1000 * n, np.float32) for n in range(4)]
    for each in kept:
        each[::512] = 1
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's thresholds")
def test_memory_of_results_that_are_gone_is_used_again():
    own = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", STEPS],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
        env={**own, "DISTGRAD_BACKEND": "numpy"},
    )

    assert int(done.stdout) < 1000, "of 40000 pages that the steps wrote to"
