"""Communicators that MPI refuses to make, and those that are held by some ranks only."""

import pytest

from distgrad.distributed.verbs.families import Member, made
from distgrad.errors import CommunicationError


class FakeMPI:
    """An MPI that has no communicator left."""

    IN_PLACE = MIN = None

    class Exception(Exception):
        def Get_error_string(self):
            return "Too many communicators\n"


class FakeComm:
    """One of a single rank; or of two, of which the other has dropped nothing."""

    def __init__(self, other_drops=True):
        self.other_drops = other_drops
        self.freed = False

    def Allreduce(self, place, array, op):
        array *= self.other_drops

    def Free(self):
        self.freed = True


class Owner:
    pass


def child_of(parent, owner):
    comm = FakeComm()
    member = Member(comm, owner, lambda: None)
    parent.take_in(member)
    return comm, member


def test_a_communicator_that_mpi_does_not_make_is_told_with_the_remedy():
    def dup():
        raise FakeMPI.Exception

    with pytest.raises(CommunicationError, match="Too many communicators; drop those that are no"):
        made(FakeMPI, dup)


def test_what_another_rank_holds_is_not_freed():
    parent = Member(FakeComm(other_drops=False), Owner(), lambda: None)
    comm, _ = child_of(parent, Owner())

    parent.free_dropped(FakeMPI)

    assert not comm.freed


def test_a_parent_is_freed_when_its_children_are_dropped_too():
    root, held = Member(FakeComm(), Owner(), lambda: None), Owner()
    comm, member = child_of(root, Owner())
    grandchild, _ = child_of(member, held)

    root.free_dropped(FakeMPI)
    before = comm.freed, grandchild.freed
    del held
    root.free_dropped(FakeMPI)

    assert (before, comm.freed, grandchild.freed) == ((False, False), True, True)
