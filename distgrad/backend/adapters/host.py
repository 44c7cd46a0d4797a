"""The host: NumPy in the place of a backend, for what a module of the standard cannot do."""

from __future__ import annotations

import numpy as np


class Host:
    """What adapters ask of a backend, answered by NumPy itself."""

    speaks_numpy = True
    module = np


HOST = Host()
