"""The tape's behaviour, row by row, in each of its spellings.

A test marked ``row("E9")`` is about that row of the inventory in `test_every_row.py`, and runs once
for each spelling: `distgrad` itself, its names after TensorFlow's, and, where it is installed,
TensorFlow, so that the page and the truth cannot drift apart. ``differs="..."`` says that
TensorFlow 2.21 is not followed there, and why; ``spellings=...`` names the only ones in which a row
makes sense.
"""

import importlib.util
import os
import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

import distgrad as dg
from distgrad.compat import tensorflow as compat

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@dataclass(frozen=True)
class Spelling:
    """A library as a test names it: what two spellings call alike is taken from the module."""

    name: str
    module: Any
    prefix: str  # of a printed tensor
    own: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        return self.own[name] if name in self.own else getattr(self.module, name)

    @property
    def native(self) -> bool:
        """Whether these are distgrad's own names, and not TensorFlow's."""
        return self.name == "dg"

    def text(self, number: str, dtype: str = "float32") -> str:
        """Return how a scalar tensor prints."""
        return f"{self.prefix}.Tensor({number}, shape=(), dtype={dtype})"

    def gradient_of(self, function: Any, x: Any, **options: Any) -> Any:
        """Return the gradient of a function at a tensor."""
        with self.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        return tape.gradient(y, x, **options)


def _constant(value: Any, dtype: Any = None) -> Any:
    return dg.asarray(value, dtype=dtype)


def _sparse_aware(tf: Any, value: Any) -> Any:
    return tf.convert_to_tensor(value).numpy()


NATIVE = Spelling(
    "dg",
    dg,
    "dg",
    {
        "constant": _constant,
        "cast": dg.astype,
        "identity": dg.positive,
        "reduce_sum": dg.sum,
        "reduce_mean": dg.mean,
        "reduce_max": dg.max,
        "reduce_prod": dg.prod,
        "log": dg.log,
        "relu": dg.relu,
        "softmax": dg.softmax,
        "cross_entropy_with_logits": dg.sigmoid_cross_entropy,
        "clip_by_value": dg.clip,
        "ForwardAccumulator": dg.ForwardAccumulator,
        "dense": lambda value: value.numpy(),
    },
)


def tensorflows(name: str, tf: Any) -> Spelling:
    """Return a library that has TensorFlow's names."""
    return Spelling(
        name,
        tf,
        "tf",
        {
            "log": tf.math.log,
            "relu": tf.nn.relu,
            "softmax": tf.nn.softmax,
            "cross_entropy_with_logits": tf.nn.sigmoid_cross_entropy_with_logits,
            "ForwardAccumulator": tf.autodiff.ForwardAccumulator,
            "dense": partial(_sparse_aware, tf),
        },
    )


SPELLINGS = {"dg": NATIVE, "tf": tensorflows("tf", compat)}
if importlib.util.find_spec("tensorflow") is not None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflow

    SPELLINGS["tensorflow"] = tensorflows("tensorflow", tensorflow)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test of a row in each spelling, under the row's name."""
    mark = metafunc.definition.get_closest_marker("row")
    if mark is None or "lib" not in metafunc.fixturenames:
        return
    names = mark.kwargs.get("spellings", tuple(SPELLINGS))
    names = [name for name in names if name in SPELLINGS]
    if mark.kwargs.get("differs"):
        names = [name for name in names if name != "tensorflow"]
    rows = "+".join(mark.args)
    metafunc.parametrize("lib", [SPELLINGS[n] for n in names], ids=[f"{rows}-{n}" for n in names])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let TensorFlow warn as it likes, and the tape say why a gradient is None."""
    for item in items:
        if item.get_closest_marker("row") is None:
            continue
        item.add_marker(pytest.mark.filterwarnings("ignore:gradient. None for every:UserWarning"))
        if "tensorflow]" in item.nodeid:
            item.add_marker(pytest.mark.filterwarnings("ignore"))
