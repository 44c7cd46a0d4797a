#!/usr/bin/env python3
"""Train a transformer that writes text, byte by byte, on any number of MPI ranks.

    python scripts/train_text.py
    mpirun -n 4 python scripts/train_text.py --zero 3 --micro-batches 2 --metrics text.jsonl

The text is the language reference that every Python brings along as the module `pydoc_data.topics`,
in the order of its topics; its last tenth is held out. It changes with Python's version, so the
summary tells its SHA-256, and a job is not resumed with another one. The result is the number of
bits that a held-out byte costs, beside what it costs if only the frequencies of bytes are known.
"""

import argparse
import hashlib
import math
import sys

import numpy as np

import distgrad as dg
import distgrad.distributed as dist
from distgrad.data import Dataset
from distgrad.data.memory import refuse_larger
from distgrad.data.packaged import MissingDataError, python_reference
from distgrad.distributed.batches.logical import LOGICAL_SHARDS
from distgrad.distributed.sharded.exact_sums import exact_sum
from distgrad.optimizers import AdamW, Optimizer, chain, clipping, schedules
from distgrad.training import Job, JobError, Trained, run_job, train

BYTES = 256
HELD_OUT = 0.1
LARGEST_NORM = 1.0
WARMUP = 50  # steps
SAMPLE = 320  # bytes written at the end
PROMPT = b"The "

WRITING = 31  # a purpose of random numbers

ZERO = """cut over ranks: 1 the optimizer's state, 2 gradients as well, 3 parameters, too (their
blocks are always computed again); 0 cuts nothing"""


def main() -> int:
    """Run the job as one of its ranks and return the exit status."""
    return run_job(
        train_writer,
        name="train_text",
        description=(__doc__ or "").splitlines()[0],
        steps=600,
        global_batch=24,
        learning_rate=3e-3,
        add_arguments=add_arguments,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the job's own arguments."""
    parser.add_argument("--zero", type=int, choices=(0, 1, 2, 3), default=0, help=ZERO)
    parser.add_argument("--recompute", action="store_true", help="keep the inputs of blocks alone")
    for name, default, what in (
        ("bucket-mib", 25, "MiB of gradients that are held and travel together with --zero"),
        ("width", 96, "numbers for each byte"),
        ("blocks", 2, "of attention and two dense layers"),
        ("heads", 4, "of attention; they share the width"),
        ("context", 64, "bytes that the next one is guessed from"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=what)


class Text(Dataset):
    """Pieces of a text, one for each place where one begins, a byte longer than the context."""

    def __init__(self, text: np.ndarray, context: int) -> None:
        self._text, self._window = text, np.arange(context + 1)

    def __len__(self) -> int:
        return len(self._text) - len(self._window) + 1

    def read(self, places: np.ndarray) -> np.ndarray:
        """Return the pieces, shape (n, context + 1)."""
        return self._text[places[:, None] + self._window].astype(np.int64)


class Source:
    """Python's language reference, and which one it is: of a resumed job it has to be the same."""

    def __init__(self, job: Job) -> None:
        try:
            whole = python_reference()
        except MissingDataError as error:
            raise JobError(str(error)) from error
        self.sha256 = hashlib.sha256(whole).hexdigest()
        number = np.array([int(self.sha256[:12], 16)], np.float64)
        least, most = job.world.allreduce(number, "min"), job.world.allreduce(number, "max")
        if least != most:
            raise JobError("ranks have other texts: do they run the same version of Python?")
        text = np.frombuffer(whole, np.uint8)
        self.size, cut = len(text), round((1 - HELD_OUT) * len(text))
        self.train, self.test = text[:cut], text[cut:]

    def bits_of_frequencies(self) -> float:
        """Return what a held-out byte costs by the frequencies of bytes in the part trained on."""
        counts = np.bincount(self.train, minlength=BYTES) + 1.0
        return float(-np.log2(counts / counts.sum())[self.test].mean())

    def state(self) -> dict[str, str]:
        """Return which text it is."""
        return {"sha256": self.sha256}

    def load_state(self, state: dict[str, str]) -> None:
        """Refuse to go on with another text."""
        if state["sha256"] != self.sha256:
            raise JobError("--resume: the text is another one, that of another version of Python")


class Layer(dg.nn.Module):
    """Attention to what came before, then two dense layers; each adds to its normalised input."""

    def __init__(self, width: int, heads: int) -> None:
        self.before_attention, self.before_dense = dg.nn.LayerNorm(), dg.nn.LayerNorm()
        self.attention = dg.nn.MultiHeadAttention(heads, causal=True)
        self.widen = dg.nn.Dense(4 * width, activation=dg.nn.gelu)
        self.narrow = dg.nn.Dense(width)

    def call(self, x: dg.Tensor) -> dg.Tensor:
        """Return features of the shape of x, (n, context, width)."""
        x = x + self.attention(self.before_attention(x))
        return x + self.narrow(self.widen(self.before_dense(x)))


class Ends(dg.nn.Module):
    """What comes before and after the blocks: bytes and places to features, features to logits."""

    def __init__(self, width: int, context: int, dtype: str) -> None:
        self.bytes = dg.nn.Embedding(BYTES, width, dtype=dtype)
        self.places = dg.nn.Embedding(context, width, dtype=dtype)
        self.norm = dg.nn.LayerNorm()

    def call(self, ids: np.ndarray) -> dg.Tensor:
        """Return features (n, context, width) of bytes (n, context)."""
        return self.bytes(ids) + self.places(np.arange(ids.shape[1]))

    def logits(self, x: dg.Tensor) -> dg.Tensor:
        """Return logits of the next byte, (n, context, 256), by the table that bytes came in by."""
        return self.bytes.logits(self.norm(x))


class Norm:
    """A transform that only notes the squared norm of what passes; with --zero, of a part.

    Given ranks, it is that of all parts, and has the same bits however they are cut.
    """

    elementwise = True
    square = 0.0

    def __init__(self, ranks: dist.Communicator | None = None) -> None:
        self._ranks = ranks

    def init(self, parameters: object) -> tuple[()]:
        """Return nothing: the norm is for the record alone."""
        return ()

    def update(self, gradients: dict, state: tuple[()], parameters: object) -> tuple:
        """Return the gradients as they are."""
        there = (each.numpy() for each in gradients.values() if each is not None)
        squares = (np.square(each, dtype=np.float64) for each in there)
        if self._ranks is None:
            self.square = sum(float(np.sum(each)) for each in squares)
        else:
            self.square = exact_sum(self._ranks, squares)
        return gradients, state


class Writer:
    """The model with its optimizer, on all ranks; what --zero and --recompute say is done here."""

    def __init__(self, job: Job) -> None:
        self._job, arguments = job, job.arguments
        width, context = arguments.width, arguments.context
        given = (width, arguments.heads, arguments.blocks, context, arguments.bucket_mib)
        if min(given) < 1 or width % arguments.heads:
            raise JobError(
                "--width, --heads, --blocks, --context, --bucket-mib: 1 or more, and heads share "
                "the width"
            )
        numbers = width * (12 * width * arguments.blocks + BYTES + context)
        refuse_larger(
            f"a model of {numbers:,} parameters", numbers * np.dtype(arguments.dtype).itemsize
        )
        pieces = 1 if arguments.deterministic else job.world.size * arguments.micro_batches
        if arguments.zero and arguments.global_batch < pieces:
            raise JobError(
                f"--global-batch {arguments.global_batch}: with --zero each rank needs an example "
                f"in each of its micro-batches; expected {pieces} or more"
            )
        whole = arguments.global_batch >= LOGICAL_SHARDS and LOGICAL_SHARDS % job.world.size == 0
        if arguments.zero == 3 and arguments.deterministic and not whole:
            raise JobError(
                "--zero 3 --deterministic: all ranks gather each block together, so each needs as "
                f"many of the batch's {LOGICAL_SHARDS} pieces; expected --global-batch "
                f"{LOGICAL_SHARDS} or more, and a number of ranks that divides {LOGICAL_SHARDS}"
            )
        self.ends = Ends(width, context, arguments.dtype)
        self.layers = [Layer(width, arguments.heads) for _ in range(arguments.blocks)]
        ids = np.zeros((1, context), np.int64)
        features = self.ends.build(ids, seed=arguments.seed)(ids)
        self.ends.logits(features)
        for number, layer in enumerate(self.layers):
            layer.name = f"layer{number}"
            layer.build(features, seed=arguments.seed)
        self.variables = [v for part in (self.ends, *self.layers) for v in part.variables]
        self._prepare(arguments)

    def _prepare(self, arguments: argparse.Namespace) -> None:
        steps = arguments.steps
        rate = schedules.cosine(arguments.learning_rate, steps, warmup=min(WARMUP, steps // 10))
        exactly = arguments.zero and arguments.deterministic
        self._norm = Norm(self._job.world if exactly else None)
        plain = Optimizer(chain(self._norm, clipping(global_norm=LARGEST_NORM), AdamW(rate)))
        self.optimizer, self._blocks = plain, self.layers
        if arguments.zero:
            self.optimizer = dist.ShardedOptimizer(
                plain,
                arguments.zero,
                self._job.world,
                deterministic=arguments.deterministic,
                bucket_bytes=arguments.bucket_mib * 2**20,
            )
        if arguments.zero == 3:
            self._blocks = [self.optimizer.block(layer) for layer in self.layers]
        elif arguments.recompute:
            self._blocks = [dg.recompute_grad(layer.call) for layer in self.layers]
        self.optimizer.build(self.variables)

    def state(self) -> dict[str, object]:
        """Return what a checkpoint holds; with --zero 3 parameters are the optimizer's."""
        models = {} if self._job.arguments.zero == 3 else {"model": self.variables}
        return {**models, "optimizer": self.optimizer}

    def __call__(self, ids: np.ndarray) -> dg.Tensor:
        """Return logits of the next byte after each of (n, context), shape (n, context, 256)."""
        x = self.ends(ids)
        for block in self._blocks:
            x = block(x)
        return self.ends.logits(x)

    def losses(self, pieces: np.ndarray) -> dg.Tensor:
        """Return the mean cross-entropy of each piece's bytes, shape (n,), in nats."""
        logits = self(pieces[:, :-1])
        return dg.mean(dg.softmax_cross_entropy(labels=pieces[:, 1:], logits=logits), axis=1)

    def learn(self, batch: object) -> dict[str, float]:
        """Take a step; return its record."""
        if not self._job.arguments.zero:
            averaged = self._job.gradients(self.losses, batch, self.variables)
            self.optimizer.apply(averaged.gradients, self.variables)
            return averaged.record()
        self.optimizer.release()
        sums = []
        for piece in self._job.pieces(batch):
            with dg.GradientTape() as tape:
                losses = self.losses(piece)
                mean = dg.mean(losses)
            self.optimizer.backward(mean, self.variables, tape)  # reduced, and let go of
            sums.append(float(losses.numpy().sum(dtype=np.float64)))
        self.optimizer.step()
        if self._job.arguments.deterministic:
            square = self._norm.square
            total = float(dist.sum_logical_shards(sums, self._job.world))
        else:
            square, total = map(float, self._job.sum_over_ranks([self._norm.square, sum(sums)]))
        size = batch.shape[0]
        return {"loss": total / size, "grad_norm": math.sqrt(square), "examples": size}

    def gather(self) -> None:
        """Make all parameters whole until the next step, to look at: with --zero 3 they are not."""
        if self._job.arguments.zero == 3:
            self.optimizer.release()
            for variable in self.variables:
                variable.read()

    def write(self, prompt: bytes, count: int) -> str:
        """Return a text that goes on from a prompt, each byte drawn by its probability."""
        context = self._job.arguments.context
        numbers = self._job.generator.fold_in(WRITING).uniform((count,), dtype="float64").numpy()
        text = list(prompt)
        for number in numbers:
            seen = text[-context:]
            logits = self(np.array([seen + [0] * (context - len(seen))])).numpy()[0, len(seen) - 1]
            shares = np.cumsum(np.exp(logits.astype(np.float64) - logits.max()))
            text.append(min(int(np.searchsorted(shares, number * shares[-1])), BYTES - 1))
        return bytes(text).decode(errors="replace")


def train_writer(job: Job) -> None:
    """Train, test, and write."""
    source, writer = Source(job), Writer(job)
    context = job.arguments.context
    if context >= len(source.test):
        raise JobError(f"--context {context}: the text held out has {len(source.test)} bytes")
    batches = job.loader(Text(source.train, context))
    test_set = Text(source.test, context)
    test_set = test_set.subset(slice(0, None, context))  # each byte counts once

    def test() -> dict[str, float]:
        writer.gather()
        found = job.evaluate(lambda pieces: {"loss": writer.losses(pieces)}, test_set, batch=384)
        return {
            "bits_per_byte": found["loss"] / math.log(2),
            "bits_by_frequencies": source.bits_of_frequencies(),
        }

    def facts(trained: Trained) -> dict[str, str]:
        size = sum(math.prod(each.shape) for each in writer.variables)
        bits, plain = trained.final["bits_per_byte"], trained.final["bits_by_frequencies"]
        return {
            "text": f"{source.size:,} bytes, SHA-256 {source.sha256[:16]}...",
            "model": f"{size:,} parameters",
            "held-out byte": f"{bits:.3f} bits; {plain:.3f} by frequencies alone",
        }

    writer.gather()
    train(
        job,
        lambda number: writer.learn(next(batches)),
        variables=writer.variables,
        state={**writer.state(), "data": batches, "text": source},
        evaluate=test,
        title="Python's language reference, continued",
        facts=facts,
    )
    if SAMPLE and not job.arguments.quiet:  # on all ranks: with --zero 3 each holds a part
        text = writer.write(PROMPT, SAMPLE)
        if job.speaks:
            print(f"\nIt writes:\n\n{text}")


if __name__ == "__main__":
    sys.exit(main())
