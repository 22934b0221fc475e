"""Settings by dotted keys, and the points of a grid of them."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np


def flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting, with its key as on the command line: `optimizer.learning_rate`."""
    if not isinstance(tree, dict) or not tree:
        yield prefix, tree
        return
    for key, item in tree.items():
        yield from flat(item, f"{prefix}.{key}" if prefix else str(key))


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
