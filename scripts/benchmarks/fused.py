"""Measure elementwise programs over large arrays, with and without gradients, beside peers.

Such programs take the time in which memory is read and written. distgrad runs them as they are
written, and traced (`dg.function`), where the C++ compiler of this machine makes one pass of many
operations; so do JAX's `jit`, TensorFlow's `tf.function` with XLA, and `torch.compile`, while
PyTorch and HIPS autograd run one operation after the other. All libraries run in turn, round after
round; each figure is the median over the rounds, in milliseconds of processor time (JAX takes
further threads, whatever it is told), and the ratio is distgrad's traced one to the best peer:
above 1 is a loss, and marked so. A peer that is not installed, or fails, is said to be missing.
What compiling takes at the first call stands beside.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_ENABLE_X64", "1")

import numpy as np

Program = Callable[[], Any]
SIZE = 1_000_000


# --- the programs, over a namespace with NumPy's names ------------------------------------------


def black_scholes(m: Any, spot: Any, strike: Any, time_left: Any, volatility: Any) -> Any:
    """Return prices of call options, summed."""
    rate, root = 0.02, volatility * m.sqrt(time_left)
    d1 = (m.log(spot / strike) + (rate + 0.5 * volatility * volatility) * time_left) / root
    d2 = d1 - root

    def normal(x: Any) -> Any:
        return 0.5 * (1.0 + m.erf(x * 0.7071067811865476))

    return m.sum(spot * normal(d1) - strike * m.exp(-rate * time_left) * normal(d2))


def gelu_with_bias(m: Any, x: Any, bias: Any, scale: Any, shift: Any) -> Any:
    """Return an activation between scaled rows, summed."""
    h = x + bias
    y = 0.5 * h * (1.0 + m.tanh(0.7978845608 * (h + 0.044715 * h * h * h)))
    return m.sum(m.tanh(y * scale + shift) ** 2)


def student_t(m: Any, x: Any, y: Any, slope: Any, width: Any) -> Any:
    """Return the negative log-likelihood of a line with heavy tails, summed."""
    z = (y - slope * x) / width
    return m.sum(2.5 * m.log(1.0 + z * z / 4.0) + m.log(width))


def pendulums(m: Any, angle: Any, speed: Any, length: Any, friction: Any) -> Any:
    """Return the energy of pendulums after four steps of the symplectic Euler method, summed."""
    for _ in range(4):
        speed = speed - 0.01 * (9.81 / length * m.sin(angle) + friction * speed)
        angle = angle + 0.01 * speed
    return m.sum(0.5 * (length * speed) ** 2 + 9.81 * length * (1.0 - m.cos(angle)))


def operands_of(name: str) -> list[np.ndarray]:
    """Return the arrays of a program."""
    draw = np.random.default_rng(0).uniform
    rows = (1000, SIZE // 1000)
    if name == "gelu with bias":
        shapes = [(-3.0, 3.0, rows), (-1.0, 1.0, rows[1:]), (0.5, 1.5, rows[1:]), (-1.0, 1.0, ())]
        return [np.asarray(draw(*each), np.float32) for each in shapes]
    if name == "student t":
        return [draw(-3, 3, SIZE), draw(-3, 3, SIZE), np.asarray(0.7), np.asarray(1.3)]
    if name == "pendulums":
        ranges = [(-3.0, 3.0), (-1.0, 1.0), (0.5, 2.0), (0.0, 0.1)]
        return [draw(*each, SIZE).astype(np.float32) for each in ranges]
    return [draw(*each, SIZE) for each in ((80, 120), (80, 120), (0.1, 2.0), (0.1, 0.5))]


PROGRAMS: dict[str, Callable[..., Any]] = {
    "Black-Scholes": black_scholes,
    "gelu with bias": gelu_with_bias,
    "student t": student_t,
    "pendulums": pendulums,
}


# --- the libraries ------------------------------------------------------------------------------


def distgrad_programs(name: str, *, traced: bool) -> dict[str, Program]:
    """Return a program with and without gradients, as it is written or traced."""
    import distgrad as dg

    class Names:
        def __getattr__(self, each: str) -> Any:
            return getattr(dg.special if each == "erf" else dg, each)

    arrays = [dg.asarray(each) for each in operands_of(name)]
    f = lambda *given: PROGRAMS[name](Names(), *given)  # noqa: E731
    both = dg.value_and_grad(f, argnums=tuple(range(4)))
    forward, backward = (dg.function(each) if traced else each for each in (f, both))
    return {"forward": lambda: forward(*arrays), "with gradients": lambda: backward(*arrays)}


def jax_programs(name: str) -> dict[str, Program]:
    """Return a program by `jax.jit`."""
    import jax
    import jax.numpy as jnp

    class Names:
        def __getattr__(self, each: str) -> Any:
            return getattr(jax.scipy.special if each == "erf" else jnp, each)

    arrays = [jnp.asarray(each) for each in operands_of(name)]
    f = lambda *given: PROGRAMS[name](Names(), *given)  # noqa: E731
    forward = jax.jit(f)
    backward = jax.jit(jax.value_and_grad(f, argnums=tuple(range(4))))
    wait = jax.block_until_ready
    return {
        "forward": lambda: wait(forward(*arrays)),
        "with gradients": lambda: wait(backward(*arrays)),
    }


def torch_programs(name: str, *, compiled: bool) -> dict[str, Program]:
    """Return a program in PyTorch, as it is written or by `torch.compile`."""
    import torch

    torch.set_num_threads(1)
    plain = [torch.from_numpy(each) for each in operands_of(name)]
    leaves = [each.clone().requires_grad_() for each in plain]
    f = lambda *given: PROGRAMS[name](torch, *given)  # noqa: E731
    g = torch.compile(f) if compiled else f
    return {
        "forward": lambda: g(*plain),
        "with gradients": lambda: torch.autograd.grad(g(*leaves), leaves),
    }


def tensorflow_programs(name: str) -> dict[str, Program]:
    """Return a program by `tf.function` with XLA."""
    import tensorflow as tf

    class Names:
        sum = staticmethod(tf.reduce_sum)

        def __getattr__(self, each: str) -> Any:
            return getattr(tf.math, each)

    arrays = [tf.constant(each) for each in operands_of(name)]
    f = lambda *given: PROGRAMS[name](Names(), *given)  # noqa: E731

    def both(*given: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(given)
            y = f(*given)
        return y, tape.gradient(y, given)

    forward, backward = (tf.function(each, jit_compile=True) for each in (f, both))
    return {"forward": lambda: forward(*arrays), "with gradients": lambda: backward(*arrays)}


def autograd_programs(name: str) -> dict[str, Program]:
    """Return a program in HIPS autograd."""
    import autograd
    import autograd.numpy as anp
    from autograd.scipy import special

    class Names:
        def __getattr__(self, each: str) -> Any:
            return getattr(special if each == "erf" else anp, each)

    arrays = operands_of(name)
    f = lambda *given: PROGRAMS[name](Names(), *given)  # noqa: E731
    gradients = [autograd.grad(f, place) for place in range(4)]
    return {
        "forward": lambda: f(*arrays),
        "with gradients": lambda: [each(*arrays) for each in gradients],
    }


LIBRARIES: dict[str, Callable[[str], dict[str, Program]]] = {
    "eager": lambda name: distgrad_programs(name, traced=False),
    "traced": lambda name: distgrad_programs(name, traced=True),
    "JAX jit": jax_programs,
    "torch.compile": lambda name: torch_programs(name, compiled=True),
    "TensorFlow XLA": tensorflow_programs,
    "PyTorch": lambda name: torch_programs(name, compiled=False),
    "autograd": autograd_programs,
}
PEERS = tuple(name for name in LIBRARIES if name not in ("eager", "traced"))


def results_of(found: Any) -> list[float]:
    """Return the sums of what a program gives, to compare libraries by."""
    if isinstance(found, (tuple, list)):
        return [each for part in found for each in results_of(part)]
    host = found.detach() if hasattr(found, "detach") else found
    return [float(np.asarray(host.numpy() if hasattr(host, "numpy") else host).sum())]


def main() -> None:
    """Measure, and print a line for each program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="how often each program is run")
    rounds = parser.parse_args().rounds
    warnings.simplefilter("ignore")
    missing: dict[str, str] = {}
    rows = []
    for name in PROGRAMS:
        programs: dict[str, dict[str, Program]] = {}
        first: dict[str, float] = {}
        values: dict[str, list[float]] = {}
        for library, make in LIBRARIES.items():
            if library in missing:
                continue
            try:
                made = make(name)
                start = time.perf_counter()
                values[library] = results_of(made["with gradients"]())[-4:]
                first[library] = time.perf_counter() - start
                made["forward"]()
                programs[library] = made
            except Exception as error:  # a peer's own troubles
                said = str(error).strip().splitlines() or [""]
                missing[library] = f"{type(error).__name__}: {said[0][:80]}"
        for library, found in values.items():
            if not np.allclose(found, values["eager"], rtol=2e-3):
                sys.exit(f"{name}: {library} gives {found}, distgrad {values['eager']}")
        for kind in ("forward", "with gradients"):
            times: dict[str, list[float]] = {library: [] for library in programs}
            for _ in range(rounds):
                for library, made in programs.items():
                    start = time.process_time()
                    made[kind]()
                    times[library].append(time.process_time() - start)
            rows.append((f"{name}, {kind}", {k: statistics.median(v) for k, v in times.items()}))
        compiling = ", ".join(
            f"{k} {first[k]:.1f} s" for k in first if k not in ("eager", "PyTorch")
        )
        print(f"{name}: first call with gradients: {compiling}", flush=True)

    print("| milliseconds | " + " | ".join(LIBRARIES) + " | traced to the best peer |")
    print("| --- |" + " --- |" * (len(LIBRARIES) + 1))
    for label, medians in rows:
        peers = [medians[each] for each in PEERS if each in medians]
        ratio = medians["traced"] / min(peers) if peers else float("nan")
        cells = [f"{medians[each] * 1e3:.2f}" if each in medians else "" for each in LIBRARIES]
        lost = " (slower)" if ratio > 1 else ""
        print(f"| {label} | {' | '.join(cells)} | {ratio:.2f}{lost} |")
    for library, reason in missing.items():
        print(f"missing: {library} ({reason})")


if __name__ == "__main__":
    main()
