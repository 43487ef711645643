"""What loops that are run by PyTorch and by Fanal are made of."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Loop = Callable[[Any, int, Callable[[Any], None]], None]  # (library, steps, where results are logged)


def data(m: Any, *shape: int, seed: int = 0) -> Any:
    """Return the same numbers in either library."""
    return m.tensor(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def labels(m: Any, n: int, classes: int, seed: int) -> Any:
    """Return the same classes in either library."""
    return m.tensor(np.random.default_rng(seed).integers(0, classes, n))
