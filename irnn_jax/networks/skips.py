"""Connections between layers that are no neighbours: "1->3" leads from layer 1 to layer 3.

0 is the input, 1 the first hidden layer, and the last number the output. The keys of a dict are
part of a pytree's structure: where a skip leads is static, and only its weights are leaves.
"""

import re
from typing import Any

KEY = re.compile(r"(0|[1-9]\d*)->(0|[1-9]\d*)")


def skip_ends(key: Any) -> tuple[int, int]:
    """Source and target of "source->target", or a ValueError."""
    match = KEY.fullmatch(key) if isinstance(key, str) else None
    if match is None:
        raise ValueError(
            f"skips has the key {key!r}, but a key reads 'source->target', as in '0->2': 0 is the "
            "input, 1 the first hidden layer, and so on to the output"
        )
    return int(match[1]), int(match[2])


def checked_skip_ends(key: Any, num_layers: int) -> tuple[int, int]:
    """Source and target, or a ValueError where a network of so many layers has no such skip."""
    source, target = skip_ends(key)
    if max(source, target) > num_layers:
        raise ValueError(
            f"skips has the key {key!r}, but the layers are 0, the input, to {num_layers}, the "
            "output"
        )
    if target == 0:
        raise ValueError(f"skips has the key {key!r}, but nothing leads to the input, 0")
    instead = {
        0: f"layers[{target - 1}].lateral",
        1: f"layers[{target - 1}].feedforward",
        -1: f"feedback[{target - 1}]",
    }.get(target - source)
    if instead is not None:
        raise ValueError(f"skips has the key {key!r}, but that is no skip: it is {instead}")
    return source, target
