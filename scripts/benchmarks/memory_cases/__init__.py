"""How peaks of memory are counted, and the transformer whose peaks `scripts/bench memory` shows."""
