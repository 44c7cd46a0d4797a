"""Every kind of fault that can be injected, on 3 ranks: how the job ends, and what it says.

The job is the same for all: a few steps of training. It ends soon after the fault, with an error
that names the rank at fault, the variable where there is one, and what to do; or it goes on. The
jobs of `test_fault_matrix.py` differ from fault to fault.
"""

from dataclasses import dataclass

import pytest

from distgrad.testing.faults import KINDS

JOB = """
world = dist.init(timeout=1.5, grace=0.5)
signal.signal(signal.SIGUSR1, lambda *_: None)
rng = np.random.default_rng(world.rank)
kernel = dg.Variable(np.ones((4, 3)), name="kernel")
bias = dg.Variable(np.zeros(3), name="bias")
for step in range(5):
    x = dg.asarray(rng.normal(size=(2, 4)))
    with dist.DistributedGradientTape(dg.GradientTape()) as tape:
        loss = dg.mean((dg.tanh(x @ kernel) + bias) ** 2)
    for variable, gradient in zip([kernel, bias], tape.gradient(loss, [kernel, bias])):
        variable.assign_sub(0.1 * gradient)
sums = dist.allgather(np.array([float(dg.sum(kernel)), float(dg.sum(bias))]).reshape(1, 2))
equal = np.array_equal(sums, np.broadcast_to(sums[0], sums.shape), equal_nan=True)
if world.rank == 0:
    print(f"trained, equal: {equal}, finite: {bool(np.isfinite(sums).all())}")
"""


@dataclass(frozen=True)
class End:
    """How a job with a fault on rank 1 ends.

    Attributes
    ----------
    says : tuple of str
        What stands in the standard error of a rank, all in one.
    by : str
        Which ranks say so: ``"all"``, the ``"others"``, or ``"anybody"``, such as the launcher.
    trained : str
        What the job prints if it goes on; empty if it has to end.
    """

    says: tuple[str, ...] = ()
    by: str = "all"
    trained: str = ""


WHOLE = "trained, equal: True, finite: True"

ENDS = {
    "order": End(("DesyncError", "rank 1 sends bias float64[3]", "give them in one order")),
    "shape": End(
        (
            "DesyncError",
            "rank 1 sends kernel float64[4, 4]",
            "kernel float64[4, 3]",
            "configuration",
        )
    ),
    "dtype": End(("DesyncError", "rank 1 sends kernel float32[4, 3]", "same configuration")),
    "none": End(trained=WHOLE),  # the others' gradients are averaged with zeros
    "verb": End(("DesyncError", "rank 1 does barrier", "same operations in the same order")),
    "raise": End(("RemoteRankError: rank 1 raised", "injected: raise on rank 1"), "others"),
    "exit0": End(("RemoteRankError", "rank 1 left by sys.exit(0)"), "others"),
    "kill": End(("injected: kill on rank 1",), "anybody"),  # and the launcher's own words
    "stop": End(("StallError", "not arrived: rank 1", "DISTGRAD_TIMEOUT"), "others"),
    "slow": End(trained=WHOLE),
    "signal": End(trained=WHOLE),  # which the job handles; else it ends the rank
    # Nothing looks for these unless it is asked to: nonfinite="raise", DivergenceAudit.
    "nan": End(trained="trained, equal: True, finite: False"),
    "bitflip": End(trained="trained, equal: False, finite: True"),
}


def test_the_matrix_has_every_kind_of_fault():
    assert ENDS.keys() == KINDS.keys()


@pytest.mark.parametrize("kind", ENDS)
def test_each_fault_ends_as_it_should(run_job, kind):
    end, n = ENDS[kind], 3
    options = ",seconds=0.5" if kind == "slow" else ""

    job = run_job(JOB, n, DISTGRAD_FAULTS=f"{kind}:rank=1,step=3{options}")

    assert f"injected: {kind} on rank 1 at step 3" in job.by_rank(1), job.stderr
    if end.trained:
        assert job.returncode == 0, job.stderr
        assert job.stdout == end.trained + "\n"
        return
    assert job.returncode != 0
    assert "trained" not in job.stdout
    assert job.seconds_after_fault < 5.0 + 1.5  # the deadline in which a rank is waited for
    ranks = [rank for rank in range(n) if end.by == "all" or rank != 1]
    texts = [job.stderr] if end.by == "anybody" else [job.by_rank(rank) for rank in ranks]
    # Where a rank is ended before it has printed, what others say has to do.
    found = [all(part in text for part in end.says) for text in texts]
    assert all(found), job.stderr
