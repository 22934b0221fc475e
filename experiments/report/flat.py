"""Nested settings by dotted keys."""

from collections.abc import Iterator
from typing import Any


def flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting, with its key as on the command line: `optimizer.learning_rate`."""
    if not isinstance(tree, dict) or not tree:
        yield prefix, tree
        return
    for key, item in tree.items():
        yield from flat(item, f"{prefix}.{key}" if prefix else str(key))
