"""The batch scripts of docs/how-to/run-on-slurm.md do what the page says, with a Slurm of words."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distgrad.distributed.launching.processes import MARK, end_processes, ranks_of

CHECKOUT = Path(__file__).resolve().parents[2]
PAGE = (CHECKOUT / "docs" / "how-to" / "run-on-slurm.md").read_text()
BY_SRUN, BY_DISTGRAD = re.findall(r"```bash\n(#!/bin/bash\n.*?)```", PAGE, re.DOTALL)
JOB = CHECKOUT / "scripts" / "train_text.py"
SMALL = (
    "--steps 25 --global-batch 7 --width 8 --heads 2 --blocks 1 --deterministic "
    "--checkpoint-every 100 --metrics metrics.jsonl"
)
BIN = Path(sys.executable).parent

if not (BIN / "mpirun").exists():
    pytest.skip("needs an MPI", allow_module_level=True)

# What Slurm's programs do here. The options of srun stand before the program.
SRUN = f"""#!/bin/sh
echo "$@" >>srun-was-told
while [ "${{1#-}}" != "$1" ]; do shift; done
exec "{BIN}/mpirun" -n "$SLURM_NTASKS" "$@"
"""
SCONTROL = '#!/bin/sh\necho "$@" >>scontrol-was-told\n'
# What pip installs; a checkout on the path has none.
DISTGRAD = f'''#!/bin/sh
exec "{sys.executable}" -m distgrad "$@"
'''


@pytest.fixture
def node(tmp_path):
    """Return a folder with programs of a Slurm, and an environment to activate."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("distgrad", DISTGRAD)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "activate").write_text(f'PATH="{programs}:{BIN}:$PATH"\n')
    return tmp_path


def start(node, script, mark):
    """Start a batch script as a job of two tasks."""
    path = node / "script.sh"
    path.write_text(script.replace("train.py", f'"{JOB}" {SMALL}'))
    variables = {"SLURM_JOB_ID": "17", "SLURM_NTASKS": "2", "SLURM_CPUS_PER_TASK": "1"}
    with (node / "output").open("w") as output:
        return subprocess.Popen(
            ["/bin/bash", str(path)],
            cwd=node,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **variables, MARK: mark},
        )


def wait_for_steps(node, job):
    """Wait until some steps are done: then all ranks listen to signals."""
    path = node / "metrics.jsonl"
    while not path.exists() or path.read_text().count("\n") < 3:
        assert job.poll() is None, (node / "output").read_text()
        time.sleep(0.02)


def to_the_tasks(job, mark):
    """Send what ``--signal=USR1@120`` sends: to all tasks, not to the script."""
    for pid in ranks_of(mark):
        os.kill(pid, signal.SIGUSR1)


def to_the_script(job, mark):
    """Send what ``--signal=B:USR1@120`` sends."""
    job.send_signal(signal.SIGUSR1)


@pytest.mark.parametrize(
    ("script", "option", "send"),
    [
        (BY_SRUN, "--signal=USR1@", to_the_tasks),
        (BY_DISTGRAD, "--signal=B:USR1@", to_the_script),
    ],
    ids=["srun", "distgrad run"],
)
def test_a_job_that_runs_out_of_time_goes_back_into_the_queue_and_goes_on(
    node, script, option, send
):
    assert f"#SBATCH {option}" in script
    mark = node.name
    job = start(node, script, mark)
    try:
        wait_for_steps(node, job)
        send(job, mark)
        code = job.wait(120)
        steps = (node / "metrics.jsonl").read_text().count("\n")
        told = (node / "scontrol-was-told").read_text()
        again = start(node, script, mark)
        second = again.wait(120)
    finally:
        end_processes(mark)
    said = (node / "output").read_text()

    assert (code, told) == (75, "requeue 17\n"), said
    assert 3 <= steps < 25
    assert second == 0, said
    assert f"resumed after step {steps}" in said
    # 25 steps and the last line: none is missing, none is there twice.
    assert (node / "metrics.jsonl").read_text().count("\n") == 26
    assert (node / "scontrol-was-told").read_text() == told


def test_srun_is_told_how_ranks_meet_and_how_many_cores_they_have(node):
    job = start(node, BY_SRUN.replace("--resume", "--steps 1"), node.name)
    try:
        code = job.wait(120)
    finally:
        end_processes(node.name)

    assert code == 0, (node / "output").read_text()
    assert (node / "srun-was-told").read_text().startswith("--mpi=pmi2 --cpus-per-task=1 python")
