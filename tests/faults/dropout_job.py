"""A training job with dropout, a shuffled order and an uneven last batch, for tests of its bits.

    distgrad run -n 5 tests/faults/dropout_job.py --deterministic --steps 200

157 examples in batches of 23: each seventh batch is of 19, which neither ranks nor logical shards
divide. The choices of dropout belong to the places in the global batch.
"""

import sys

import numpy as np

import distgrad as dg
from distgrad.data import from_arrays
from distgrad.training import Job, run_job, train

EXAMPLES, BATCH, FEATURES, CLASSES = 157, 23, 9, 4


def body(job: Job) -> None:
    """Train on data of the seed."""
    draws = np.random.default_rng(0)
    data = {
        "x": draws.normal(size=(EXAMPLES, FEATURES)).astype(job.arguments.dtype),
        "y": draws.integers(0, CLASSES, EXAMPLES),
    }
    first, second = dg.nn.Dense(16, activation=dg.tanh), dg.nn.Dense(CLASSES)
    model = dg.nn.Sequential(first, dg.nn.Dropout(0.3), second)
    model.build(dg.asarray(data["x"][:1]), generator=job.generator.fold_in(1))
    variables = model.trainable_variables
    optimizer = dg.optimizers.Adam(dg.optimizers.schedules.cosine(0.02, job.arguments.steps))
    optimizer.build(variables)
    batches = job.loader(from_arrays(data), last="keep")
    choices = job.generator.fold_in(2)
    sizes = []

    def step(number: int) -> dict[str, float]:
        batch = next(batches)
        sizes.append(len(batch["y"]))

        def losses_of(piece: dict[str, dict[str, np.ndarray]]) -> dg.Tensor:
            rows = [int(place) for place in piece["place"]]
            own = choices.fold_in(number)
            logits = model(piece["batch"]["x"], training=True, generator=own, rows=rows)
            return dg.softmax_cross_entropy(labels=piece["batch"]["y"], logits=logits)

        whole = {"batch": batch, "place": np.arange(sizes[-1])}
        averaged = job.gradients(losses_of, whole, variables)
        optimizer.apply(averaged.gradients, variables)
        return averaged.record()

    train(
        job,
        step,
        variables=model.variables,
        state={"model": model, "optimizer": optimizer, "data": batches},
    )
    if job.world.rank == 0:
        print("sizes", *sorted(set(sizes)), flush=True)


if __name__ == "__main__":
    sys.exit(
        run_job(
            body,
            name="dropout_job",
            description="Train with dropout on made-up data.",
            steps=30,
            global_batch=BATCH,
            learning_rate=0.02,
        )
    )
