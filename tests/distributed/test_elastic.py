"""Commits in memory, and a job that runs where nobody can outlive anybody."""

import numpy as np
import pytest

import distgrad as dg
import distgrad.distributed as dist
from distgrad.distributed.elastic.commits import Commits
from distgrad.distributed.launching.launchers import Launcher, Placement, command_of
from distgrad.errors import CommunicationError, LaunchError, RankLostError
from distgrad.optimizers import Adam, Optimizer


class Loader:
    """Something with a position of its own."""

    def __init__(self):
        self.places = [0]

    def state_dict(self):
        return {"places": self.places}

    def load_state_dict(self, state):
        self.places = state["places"]


def state_of():
    """Return a state of every kind of leaf."""
    x = dg.Variable([1.0, 2.0], name="x")
    optimizer = Optimizer(Adam(0.1))
    optimizer.build(x)
    return {"x": x, "optimizer": optimizer, "draws": dg.random.Generator(3), "loader": Loader()}


def change(state):
    """Take a step that changes all of it, in place where it goes."""
    state["optimizer"].apply(dg.asarray([1.0, -1.0]), state["x"])
    state["loader"].places.append(len(state["loader"].places))
    return state["draws"].uniform((2,)).tolist()


def seen(state):
    """Return what can be compared."""
    slots = [v.numpy().tolist() for v in state["optimizer"].variables]
    return state["x"].tolist(), slots, state["draws"].state, list(state["loader"].places)


def test_going_back_restores_variables_optimizer_generator_and_loader():
    state = state_of()
    commits = Commits(state)
    change(state)
    commits.commit(1)
    before = seen(state)
    drawn = change(state)
    commits.commit(2)
    change(state)

    commits.restore(1)

    assert seen(state) == before
    assert change(state) == drawn


def test_going_back_restores_the_generators_that_layers_of_a_model_hold():
    model = dg.nn.Sequential(dg.nn.Dropout(0.5, generator=dg.random.Generator(3)))
    commits = Commits({"model": model})
    commits.commit(0)
    model(np.ones(4, np.float32), training=True)

    commits.restore(0)

    assert model[0].generator.state == [3, 0, 0]


def test_one_commit_serves_two_returns():
    state = state_of()
    commits = Commits(state)
    commits.commit(0)
    before = seen(state)
    for _ in range(2):
        change(state)
        commits.restore(0)

    assert seen(state) == before


def test_the_last_two_commits_are_there_and_no_older_one():
    state = state_of()
    commits = Commits(state)
    for step in range(5):
        commits.commit(step)
        change(state)

    assert commits.newest == 4
    commits.restore(3)
    assert commits.newest == 3
    with pytest.raises(CommunicationError, match="no commit in common"):
        commits.restore(1)


def test_a_variable_made_after_the_commit_cannot_be_restored():
    x = dg.Variable(1.0, name="x")
    optimizer = Optimizer(Adam(0.1))
    commits = Commits([x, optimizer])
    commits.commit(0)
    optimizer.apply(dg.asarray(1.0), x)

    with pytest.raises(CommunicationError, match=r"was made after the commit of step 0.*build"):
        commits.restore(0)


def test_what_cannot_be_copied_is_refused_with_its_place():
    with pytest.raises(TypeError, match=r"state\[model/step\] is a int; expected a Variable"):
        dist.ElasticJob({"model": {"step": 3}})


@pytest.mark.parametrize("option", ["commit_every", "min_ranks"])
def test_numbers_below_one_are_refused(option):
    with pytest.raises(ValueError, match=f"{option} is 0; expected 1 or more"):
        dist.ElasticJob(dg.Variable(1.0), **{option: 0})


def test_a_process_alone_runs_its_steps_from_where_it_is():
    done = []
    job = dist.ElasticJob(dg.Variable(1.0), step=3)

    job.run(done.append, 6)
    job.run(done.append, 8)

    assert done == [3, 4, 5, 6, 7]
    assert job.recoveries == []


def test_an_error_in_a_step_is_no_loss():
    def step(number):
        raise RankLostError("from elsewhere", (2,))

    with pytest.raises(RankLostError, match="from elsewhere"):
        dist.ElasticJob(dg.Variable(1.0)).run(step, 1)


def test_open_mpi_is_told_to_let_ranks_live_and_others_are_refused(tmp_path):
    placement = Placement(elastic=True)

    command = command_of(Launcher(tmp_path / "mpirun", "Open MPI"), 3, ["python"], placement)

    assert command[1:] == ["-n", "3", "--with-ft", "ulfm", "python"]
    with pytest.raises(LaunchError, match=r"mpirun is MPICH; in an environment.*openmpi"):
        command_of(Launcher(tmp_path / "mpirun", "MPICH"), 3, ["python"], placement)
    with pytest.raises(LaunchError, match="one process needs no launcher"):
        command_of(None, 1, ["python"], placement)


def test_gradients_of_ranks_that_are_no_more_are_forgotten(monkeypatch):
    old, new = dist.RecordedCommunicator(size=3), dist.RecordedCommunicator(size=2)
    x = dg.Variable([1.0], name="x")
    accumulator = dist.GradientAccumulator(x)
    here = "distgrad.distributed.launching.launch.world"
    monkeypatch.setattr(here, lambda: old)
    accumulator.add(dg.asarray([100.0]), examples=1)

    monkeypatch.setattr(here, lambda: new)
    accumulator.add(dg.asarray([3.0]), examples=1)

    np.testing.assert_array_equal(accumulator.gradients().numpy(), [3.0])
