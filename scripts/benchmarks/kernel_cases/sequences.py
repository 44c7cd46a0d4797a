"""Attention, LSTM and GRU over sequences of tokens, as in translation and speech."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from kernel_cases import OURS, Steps, draw, steps_of


@dataclass(frozen=True)
class Attention:
    """Self-attention of a batch of examples with several heads."""

    examples: int
    heads: int
    tokens: int
    width: int
    causal: bool = False

    def __call__(self, library: str) -> Steps | None:
        """Return what to measure in a library; TensorFlow's own has no fused kernel."""
        if library == "onednn":  # it has no part in it
            return None
        rng = np.random.default_rng(0)
        shape = (self.examples, self.heads, self.tokens, self.width)
        arrays = tuple(draw(*shape, generator=rng) for _ in range(3))
        if library == "blas":
            return self._products(*arrays)
        return steps_of(library, getattr(self, "distgrad" if library in OURS else library), arrays)

    def distgrad(self, dg: Any, q: Any, k: Any, v: Any) -> Any:
        """Attend in distgrad."""
        return dg.nn.scaled_dot_product_attention(q, k, v, causal=self.causal)

    def torch(self, torch: Any, q: Any, k: Any, v: Any) -> Any:
        """Attend in PyTorch."""
        attend = torch.nn.functional.scaled_dot_product_attention
        return attend(q, k, v, is_causal=self.causal)

    def tensorflow(self, tf: Any, q: Any, k: Any, v: Any) -> Any:
        """Attend in TensorFlow, by products and a softmax."""
        scores = tf.matmul(q * self.width**-0.5, k, transpose_b=True)
        if self.causal:
            seen = tf.linalg.band_part(tf.ones((self.tokens, self.tokens), tf.bool), -1, 0)
            scores = tf.where(seen, scores, -1e30)
        return tf.matmul(tf.nn.softmax(scores), v)

    def _products(self, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> Steps:
        """Return the products alone, head by head; of a causal half of the scores, all the same."""
        heads = [each.reshape(-1, self.tokens, self.width) for each in (q, k, v)]
        scores = np.empty((self.tokens, self.tokens), q.dtype)
        y = np.empty((self.tokens, self.width), q.dtype)

        def forward() -> None:
            for a, b, c in zip(*heads, strict=True):
                np.matmul(a, b.T, out=scores)
                np.matmul(scores, c, out=y)

        def both() -> None:
            forward()
            for a, b, c in zip(*heads, strict=True):
                np.matmul(a, b.T, out=scores)
                np.matmul(scores.T, a, out=y)
                np.matmul(a, c.T, out=scores)
                np.matmul(scores, b, out=y)
                np.matmul(scores.T, a, out=y)

        return forward, both


@dataclass(frozen=True)
class Recurrent:
    """A layer with memory, over a batch of sequences with time as the first axis."""

    kind: str
    steps: int
    examples: int
    inputs: int
    units: int

    def __call__(self, library: str) -> Steps | None:
        """Return what to measure in a library."""
        whose = "distgrad" if library in OURS else library
        maker = getattr(self, f"_{whose}_{self.kind}", None)
        if maker is None or library == "onednn":  # it has no part in it
            return None
        width = self.units * (4 if self.kind == "lstm" else 3)
        kernel, recurrent = draw(self.inputs, width) / 8, draw(self.units, width) / 8
        if library == "torch":
            kernel, recurrent = kernel.T.copy(), recurrent.T.copy()
        weights: tuple[np.ndarray, ...] = (kernel, recurrent, draw(width))
        if library == "tensorflow":
            weights = (np.concatenate(weights[:2]), weights[2])
        elif self.kind == "gru" or library == "torch":
            weights = (*weights, draw(width))
        if library == "tensorflow" and weights[1].dtype != np.float32:  # its kernel takes no other
            return None
        return steps_of(library, maker, (draw(self.steps, self.examples, self.inputs), *weights))

    def _distgrad_lstm(self, dg: Any, x: Any, *weights: Any) -> Any:
        return dg.nn.lstm(x, *weights, time_major=True)[0]

    def _distgrad_gru(self, dg: Any, x: Any, *weights: Any) -> Any:
        return dg.nn.gru(x, *weights, time_major=True)[0]

    def _torch_lstm(self, torch: Any, x: Any, *weights: Any) -> Any:
        first = torch.zeros(1, self.examples, self.units, dtype=x.dtype)
        return torch.lstm(x, (first, first), weights, True, 1, 0.0, False, False, False)[0]

    def _torch_gru(self, torch: Any, x: Any, *weights: Any) -> Any:
        first = torch.zeros(1, self.examples, self.units, dtype=x.dtype)
        return torch.gru(x, first, weights, True, 1, 0.0, False, False, False)[0]

    def _tensorflow_lstm(self, tf: Any, x: Any, weights: Any, bias: Any) -> Any:
        # TensorFlow has one kernel for all steps of an LSTM, but none for those of a GRU.
        first, unused = tf.zeros((self.examples, self.units)), tf.zeros(self.units)
        return tf.raw_ops.BlockLSTM(
            seq_len_max=tf.constant(self.steps, tf.int64),
            **{"x": x, "w": weights, "b": bias, "cs_prev": first, "h_prev": first},
            **dict.fromkeys(("wci", "wcf", "wco"), unused),
            forget_bias=0.0,
            cell_clip=-1.0,
        ).h


CASES: dict[str, Callable[[str], Steps | None]] = {
    "attention 4 x 8 heads, 128 tokens of 64": Attention(4, 8, 128, 64),
    "attention 4 x 8 heads, 128 of 64, causal": Attention(4, 8, 128, 64, causal=True),
    "attention 1 x 8 heads, 1024 tokens of 64": Attention(1, 8, 1024, 64),
    "attention 1 x 8 heads, 1024 of 64, causal": Attention(1, 8, 1024, 64, causal=True),
    "lstm 50 steps, 32 x 64 to 128": Recurrent("lstm", 50, 32, 64, 128),
    "lstm 200 steps, 16 x 64 to 64": Recurrent("lstm", 200, 16, 64, 64),
    "gru 50 steps, 32 x 64 to 128": Recurrent("gru", 50, 32, 64, 128),
    "gru 200 steps, 16 x 64 to 64": Recurrent("gru", 200, 16, 64, 64),
}
