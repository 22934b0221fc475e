"""The points of a grid of varied numbers, and results split by them."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np


def points(vary: Mapping[Any, Any] | None) -> list[dict[str, float]]:
    """The points of `vary`, the last key the fastest; one empty point if nothing is varied."""
    varied = {str(key): values for key, values in (vary or {}).items()}
    return [
        dict(zip(varied, map(float, point), strict=True))
        for point in itertools.product(*varied.values())
    ]


def by_point(leaf: np.ndarray, num_points: int) -> np.ndarray:
    """(lanes, ...) as (points, runs, ...)."""
    return leaf.reshape(num_points, -1, *leaf.shape[1:])
