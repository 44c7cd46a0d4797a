"""The search for buckets over MPI: all ranks settle on the same, and gradients stay the same."""

import numpy as np
import pytest

import distgrad as dg
import distgrad.distributed as dist

pytestmark = pytest.mark.mpi(min_size=2)


def test_all_ranks_settle_on_one_length_while_the_gradients_stay_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    world = dist.world()
    model = [dg.Variable(np.full(200_000, n, np.float32), name=f"v{n}") for n in range(8)]
    seen = []
    for _ in range(14):  # three candidates four times, and two steps of what was settled
        with dist.DistributedGradientTape(dg.GradientTape(), bucket_bytes="auto") as tape:
            loss = dg.mean(model[0] * model[0])
            for variable in model[1:]:
                loss = loss + dg.mean(variable * variable) * np.float32(world.rank + 1)
        gradients = tape.gradient(loss, model, examples=1)
        mean = (world.size + 1) / 2
        for n, gradient in enumerate(gradients):
            expected = 2 * n / 200_000 * (mean if n else 1)
            np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-5)
        seen.append(tape.report.buckets)

    assert seen[-1] == seen[-2]
    assert len(set(seen[:12])) > 1, "several lengths were tried"
    assert len(set(world.allgather(np.array(seen[-1])).tolist())) == 1
