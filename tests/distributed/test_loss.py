"""What MPI says of the dead, and what is concluded from it, without processes."""

import pytest

from distgrad.distributed.safety import loss
from distgrad.distributed.safety.guard import Guard
from distgrad.distributed.safety.loss import Losses, outlives
from distgrad.distributed.safety.waiting import Waiting
from distgrad.errors import RankLostError


class Failure(Exception):
    """An MPI error."""

    def __init__(self, code):
        super().__init__(code)
        self.code = code

    def Get_error_class(self):
        return self.code


class MPI:
    """The names of mpi4py that are asked for."""

    Exception = Failure
    ERR_PROC_FAILED, ERR_PROC_FAILED_PENDING, ERR_REVOKED, ERR_OTHER = range(70, 74)
    ANY_SOURCE = ANY_TAG = -1


class Group:
    """Some ranks."""

    def __init__(self, ranks):
        self.ranks = ranks
        self.size = len(ranks)

    def Translate_ranks(self, places, other):
        return [other.ranks.index(self.ranks[place]) for place in places]


class Communicator:
    """A communicator of five ranks, some of which die after so many looks."""

    def __init__(self, dead=(), after=0):
        self.dead, self.after = dead, after
        self.revoked = 0

    def Get_group(self):
        return Group([0, 1, 2, 3, 4])

    def Get_failed(self):
        self.after -= 1
        return Group(list(self.dead) if self.after < 0 else [])

    def Iprobe(self, source, tag):
        return False

    def Is_revoked(self):
        return self.revoked > 0

    def Revoke(self):
        self.revoked += 1


@pytest.fixture(autouse=True)
def outliving(monkeypatch):
    monkeypatch.setenv(loss.VARIABLE, "1")
    monkeypatch.setattr(loss, "_NEWS_SECONDS", 0.1)


def test_a_death_is_told_to_all_communicators_once():
    own, other = Communicator(dead=[3, 1]), Communicator()
    losses = Losses(MPI, own)
    losses.watch(other)

    assert losses.heard(Failure(MPI.ERR_PROC_FAILED))
    assert losses.heard(Failure(MPI.ERR_REVOKED))

    assert (own.revoked, other.revoked) == (1, 1)
    assert losses.known
    assert losses.error(0, "in barrier").ranks == (1, 3)
    assert "ranks 1, 3 died, while rank 0 was in barrier" in str(losses.error(0, "in barrier"))


def test_an_error_that_comes_before_the_news_of_a_death_waits_for_it():
    losses = Losses(MPI, Communicator(dead=[2], after=3))

    assert losses.heard(Failure(MPI.ERR_OTHER))
    assert losses.error(0, "").ranks == (2,)


def test_what_others_have_revoked_means_a_death_too():
    own, other = Communicator(), Communicator()
    losses = Losses(MPI, own)
    losses.watch(other)
    other.Revoke()

    assert losses.heard(Failure(MPI.ERR_OTHER))
    assert "a rank died, while rank 4 was" in str(losses.error(4, "elsewhere"))


def test_any_other_error_is_none():
    losses = Losses(MPI, Communicator())

    assert not losses.heard(Failure(MPI.ERR_OTHER))
    assert not losses.known


def test_without_the_launchers_word_nobody_outlives_anybody(monkeypatch):
    monkeypatch.delenv(loss.VARIABLE)

    assert not outlives()
    assert not Losses(MPI, Communicator(dead=[1])).heard(Failure(MPI.ERR_PROC_FAILED))


def test_ranks_that_wait_are_interrupted():
    guard = object.__new__(Guard)  # MPI is needed to make one, not to ask it
    guard.rank = 0
    guard.losses = Losses(MPI, Communicator(dead=[4]))
    guard.losses.heard(Failure(MPI.ERR_PROC_FAILED))

    with pytest.raises(RankLostError, match="rank 4 died, while rank 0 was in allreduce") as raised:
        guard.check(Waiting(1, 6, (0, 1, 4), lambda: "allreduce of float32[3]"))
    assert raised.value.ranks == (4,)
