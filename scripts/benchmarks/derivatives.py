"""Measure Jacobian and Hessian of a small network, beside PyTorch, JAX, autograd and TensorFlow.

The network has two layers, R^100 -> R^100, tanh between them, float32. The Hessian is that of the
sum of squares of its outputs. Programs that run as they are written are compared with distgrad's
eager one, those that were compiled before (`jax.jit`, `tf.function`) with its traced one. All
libraries run in turn, round after round, each program once to warm up and once to be timed, on one
thread; each figure is the median over the rounds. A ratio above 1 is a loss, and marked so. A peer
that is not installed is said to be missing.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# One thread for all of them: two of them waiting for each other cost more than products this small.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np

SIZE = 100
Program = Callable[[], Any]


def parameters() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the two weight matrices and the point."""
    rng = np.random.default_rng(0)
    scale = SIZE**-0.5
    w1, w2 = (rng.normal(scale=scale, size=(SIZE, SIZE)).astype(np.float32) for _ in range(2))
    return w1, w2, rng.normal(size=SIZE).astype(np.float32)


def distgrad_programs() -> dict[str, Program]:
    """Return the programs in distgrad: functional, by a tape, and traced."""
    import distgrad as dg

    w1, w2, x = map(dg.asarray, parameters())

    def net(x: Any) -> Any:
        return dg.tanh(x @ w1) @ w2

    def loss(x: Any) -> Any:
        return dg.sum(net(x) ** 2)

    def taped() -> Any:
        with dg.GradientTape() as tape:
            tape.watch(x)
            y = net(x)
        return tape.jacobian(y, x)

    traced = dg.function(dg.jacrev(net)), dg.function(dg.hessian(loss))
    return {
        "jacobian": lambda: dg.jacrev(net)(x),
        "jacobian (tape)": taped,
        "jacobian (traced)": lambda: traced[0](x),
        "hessian": lambda: dg.hessian(loss)(x),
        "hessian (traced)": lambda: traced[1](x),
    }


def torch_programs() -> dict[str, Program]:
    """Return the programs in torch.func, on one thread."""
    import torch

    torch.set_num_threads(1)
    w1, w2, x = map(torch.from_numpy, parameters())

    def net(x: Any) -> Any:
        return torch.tanh(x @ w1) @ w2

    def loss(x: Any) -> Any:
        return torch.sum(net(x) ** 2)

    jacobian, hessian = torch.func.jacrev(net), torch.func.hessian(loss)
    return {"jacobian": lambda: jacobian(x), "hessian": lambda: hessian(x)}


def jax_programs() -> dict[str, Program]:
    """Return the programs in JAX, as they are written and compiled."""
    import jax
    import jax.numpy as jnp

    w1, w2, x = map(jnp.asarray, parameters())

    def net(x: Any) -> Any:
        return jnp.tanh(x @ w1) @ w2

    def loss(x: Any) -> Any:
        return jnp.sum(net(x) ** 2)

    def waited_for(f: Callable[[Any], Any]) -> Program:
        return lambda: f(x).block_until_ready()  # what it returns is computed in the background

    jacobian, hessian = jax.jacrev(net), jax.hessian(loss)
    return {
        "jacobian": waited_for(jacobian),
        "jacobian (compiled)": waited_for(jax.jit(jacobian)),
        "hessian": waited_for(hessian),
        "hessian (compiled)": waited_for(jax.jit(hessian)),
    }


def autograd_programs() -> dict[str, Program]:
    """Return the programs in HIPS autograd."""
    import autograd
    import autograd.numpy as anp

    w1, w2, x = parameters()

    def net(x: Any) -> Any:
        return anp.dot(anp.tanh(anp.dot(x, w1)), w2)

    def loss(x: Any) -> Any:
        return anp.sum(net(x) ** 2)

    jacobian, hessian = autograd.jacobian(net), autograd.hessian(loss)
    return {"jacobian": lambda: jacobian(x), "hessian": lambda: hessian(x)}


def tensorflow_programs() -> dict[str, Program]:
    """Return the programs in TensorFlow, as they are written and compiled, on one thread."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    w1, w2, x = map(tf.constant, parameters())

    def net(x: Any) -> Any:
        return tf.linalg.matvec(w2, tf.tanh(tf.linalg.matvec(w1, x, transpose_a=True)), True)

    def jacobian() -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = net(x)
        return tape.jacobian(y, x)

    def hessian() -> Any:
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = tf.reduce_sum(net(x) ** 2)
            gradient = inner.gradient(y, x)
        return outer.jacobian(gradient, x)

    return {
        "jacobian": jacobian,
        "jacobian (compiled)": tf.function(jacobian),
        "hessian": hessian,
        "hessian (compiled)": tf.function(hessian),
    }


LIBRARIES = {
    "distgrad": distgrad_programs,
    "torch": torch_programs,
    "jax": jax_programs,
    "autograd": autograd_programs,
    "tensorflow": tensorflow_programs,
}


def main() -> None:
    """Measure, and print a table with the ratios of distgrad to each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="how often each library runs")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds must be 1 or more")

    programs: dict[tuple[str, str], Program] = {}
    for library, make in LIBRARIES.items():
        try:
            programs.update({(library, name): run for name, run in make().items()})
        except ImportError as error:
            print(f"{library}: not installed ({error})", file=sys.stderr)
    times: dict[tuple[str, str], list[float]] = {key: [] for key in programs}
    for run in programs.values():  # warm up
        run()
    for _ in range(arguments.rounds):
        for key, run in programs.items():
            run()  # untimed: caches and threads are as the library before left them
            start = time.perf_counter()
            run()
            times[key].append(time.perf_counter() - start)
    medians = {key: statistics.median(values) for key, values in times.items()}
    print(f"milliseconds, two-layer network R^{SIZE} -> R^{SIZE}, median of {arguments.rounds}")
    print(f"{'':36}{'ms':>9}{'distgrad / it':>15}")
    for (library, name), median in medians.items():
        own = name.replace("compiled", "traced") if library != "distgrad" else name.split()[0]
        ratio = medians["distgrad", own] / median
        mark = "  slower" if library != "distgrad" and ratio > 1 else ""
        print(f"{library + ' ' + name:36}{median * 1e3:9.2f}{ratio:15.2f}{mark}")


if __name__ == "__main__":
    main()
