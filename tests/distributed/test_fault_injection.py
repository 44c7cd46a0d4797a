"""The kit that breaks ranks: what is written happens, where it is written, and nowhere else."""

import subprocess
import sys

import numpy as np
import pytest

import distgrad as dg
import distgrad.distributed as dist
from distgrad.errors import DesyncError
from distgrad.testing import faults
from distgrad.testing.faults import FaultError, InjectedError, injected, parse


def train(comm, steps=3):
    """Return the variables after some steps, the same on every rank if all goes well."""
    kernel = dg.Variable([[1.0, 2.0]], name="kernel")
    bias = dg.Variable([0.5, -0.5], name="bias")
    for step in range(steps):
        with dist.DistributedGradientTape(dg.GradientTape(), comm) as tape:
            loss = dg.sum((kernel * (step + comm.rank + 1.0) + bias) ** 2)
        for variable, gradient in zip(
            (kernel, bias), tape.gradient(loss, [kernel, bias]), strict=True
        ):
            variable.assign_sub(0.01 * gradient)
    return [*kernel.numpy()[0].tolist(), *bias.tolist()]


def test_faults_are_read_with_all_their_options():
    slow, nan = parse(" slow:rank=0,step=2,seconds=0.5 ; nan:rank=1, step=3, variable=bias ;")

    assert (slow.kind, slow.rank, slow.step, slow.seconds) == ("slow", 0, 2, 0.5)
    assert (nan.kind, nan.rank, nan.step, nan.variable) == ("nan", 1, 3, "bias")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("melt:rank=0,step=1", "unknown kind 'melt'; expected one of order, shape"),
        ("kill:rank=0,step=1,when=now", "unknown key 'when'; expected rank, step, variable"),
        ("kill:rank=first,step=1", "rank='first' is no number"),
        ("kill:rank=0", "step missing"),
    ],
)
def test_what_is_no_fault_is_refused(text, says):
    with pytest.raises(FaultError, match=says):
        parse(text)


def test_a_fault_happens_on_its_rank_at_its_step(on_ranks):
    with injected("raise:rank=1,step=2"):
        results = on_ranks(3, lambda comm: train(comm, steps=1))
        again = on_ranks(1, train)
    with injected("raise:rank=0,step=2"):
        (error,) = on_ranks(1, train)

    assert results[0] == results[1] == results[2]
    assert again[0] == on_ranks(1, train)[0]
    assert isinstance(error, InjectedError)


def test_afterwards_nothing_is_left():
    original = dist.DistributedGradientTape.gradient

    with injected("raise:rank=0,step=1"):
        assert dist.DistributedGradientTape.gradient is not original

    assert dist.DistributedGradientTape.gradient is original


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("order", "rank 1 sends bias float64[2]"),
        ("shape", "rank 1 sends kernel float64[1, 3]"),
        ("dtype", "rank 1 sends kernel float32[1, 2]"),
        ("shape:variable=bias", "rank 1 sends bias float64[3]"),
    ],
)
def test_ranks_that_differ_are_told_apart(on_ranks, kind, says):
    name, _, more = kind.partition(":")
    dg.set_default_dtype("float64")
    try:
        with injected(f"{name}:rank=1,step=1,{more}"):
            errors = on_ranks(3, train)
    finally:
        dg.set_default_dtype("float32")

    for error in errors:
        assert isinstance(error, DesyncError)
        assert says in str(error)


def test_a_missing_gradient_counts_as_zero(on_ranks):
    with injected("none:rank=1,step=1,variable=bias"):
        results = on_ranks(2, lambda comm: train(comm, steps=1))

    assert results[0] == results[1]
    assert results[0] != on_ranks(2, lambda comm: train(comm, steps=1))[0]


def test_a_gradient_of_nan_reaches_every_rank_and_one_variable_alone(on_ranks):
    with injected("nan:rank=1,step=1,variable=bias"):
        results = on_ranks(2, lambda comm: train(comm, steps=1))

    for values in results:
        assert np.isfinite(values[:2]).all()
        assert np.isnan(values[2:]).all()


def test_a_flipped_bit_stays_on_its_rank(on_ranks):
    with injected("bitflip:rank=1,step=1,variable=bias"):
        results = on_ranks(2, lambda comm: train(comm, steps=1))

    assert results[0][:2] == results[1][:2]
    assert results[0][2] != results[1][2]
    assert results[0][2] == pytest.approx(results[1][2], rel=1e-3)


def test_an_unknown_variable_is_refused_with_those_that_there_are(on_ranks):
    with injected("nan:rank=0,step=1,variable=scale"):
        (error,) = on_ranks(1, train)

    assert isinstance(error, FaultError)
    assert "no source is called 'scale'; there are kernel, bias" in str(error)


def test_the_environment_injects_into_a_script_that_knows_nothing_of_it(tmp_path):
    script = tmp_path / "job.py"
    script.write_text(
        "import sys, distgrad as dg, distgrad.distributed as dist\n"
        "x = dg.Variable(1.0, name='x')\n"
        "for step in range(3):\n"
        "    with dist.DistributedGradientTape(dg.GradientTape()) as tape: y = x * x\n"
        "    tape.gradient(y, x)\n"
        "    print(step, 'distgrad.testing.faults' in sys.modules, flush=True)\n"
    )

    def run(**variables):
        return subprocess.run(
            [sys.executable, "-m", "distgrad", "run", "-n", "1", script],
            env={**faults.os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=60,
        )

    whole, broken = run(), run(DISTGRAD_FAULTS="kill:rank=0,step=2")
    later = run(DISTGRAD_FAULTS="kill:rank=0,step=2,restart=1")
    wrong = run(DISTGRAD_FAULTS="kill")

    assert (whole.returncode, whole.stdout) == (0, "0 False\n1 False\n2 False\n")
    assert (broken.returncode, broken.stdout) == (137, "0 True\n")
    assert "injected: kill on rank 0 at step 2" in broken.stderr
    assert later.returncode == 0
    assert wrong.returncode == 1
    assert "FaultError: 'kill': rank and step missing" in wrong.stderr
