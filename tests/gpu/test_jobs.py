"""The training jobs on the device, by `--backend cupy` alone: their losses are the CPU's."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


def losses(job, backend, launch, folder):
    """Return the losses of four steps of a job."""
    record = folder / f"{backend}.jsonl"
    command = [sys.executable, SCRIPTS / f"train_{job}.py", "--backend", backend, "--steps", "4"]
    done = subprocess.run(
        [*launch, *command, "--global-batch", "24", "--metrics", record],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=folder,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = map(json.loads, record.read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize(("job", "ranks"), [("digits", 2), ("policy", 1), ("text", 1)])
def test_a_job_has_the_losses_of_the_cpu(job, ranks, cupy_backend, request, tmp_path):
    if job == "digits":
        pytest.importorskip("sklearn")
    launch = [request.getfixturevalue("launcher"), "-n", str(ranks)] if ranks > 1 else []

    found, expected = (losses(job, each, launch, tmp_path) for each in ("cupy", "numpy"))

    assert len(found) >= 4
    np.testing.assert_allclose(found, expected, rtol=1e-4)
