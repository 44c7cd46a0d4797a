"""The law of graphs holds after every pass of every graph that these tests trace."""

import functools

import pytest

from distgrad.graph import passes


@pytest.fixture(autouse=True)
def _law_between_passes(monkeypatch):
    def verified(one_pass):
        @functools.wraps(one_pass)
        def run(graph, kernels, notes):
            graph.verify()
            done = one_pass(graph, kernels, notes)
            done.verify()
            return done

        return run

    monkeypatch.setattr(passes, "PASSES", tuple(map(verified, passes.PASSES)))
