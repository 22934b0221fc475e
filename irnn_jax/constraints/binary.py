"""Arrays of 0 and 1 that are a part of the program: hashable, and no parameters."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import Bool


@dataclasses.dataclass(frozen=True)
class Binary:
    """Zeros and ones in a form that compares by value, so that equal ones share a program.

    Attributes:
        shape: of the array.
        packed: eight entries a byte.
    """

    shape: tuple[int, ...]
    packed: bytes

    @classmethod
    def of(cls, array: Bool[np.ndarray, "*shape"]) -> "Binary":
        """Of booleans."""
        return cls(shape=array.shape, packed=np.packbits(array).tobytes())

    def array(self) -> Bool[np.ndarray, "*shape"]:
        """The booleans."""
        size = int(np.prod(self.shape))
        bits = np.unpackbits(np.frombuffer(self.packed, np.uint8), count=size)
        return bits.astype(bool).reshape(self.shape)


def checked_binary(name: str, values: Any, shape: tuple[int, ...]) -> Bool[np.ndarray, "*shape"]:
    """The caller's array as booleans, or a ValueError that says what is wrong with `name`."""
    array = concrete(name, values)
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}, but {shape} is expected")
    wrong = array[(array != 0) & (array != 1)]
    if wrong.size:
        raise ValueError(f"{name} has the entry {wrong.flat[0]}, but only 0 and 1 may occur")
    return array != 0


def concrete(name: str, values: Any) -> np.ndarray:
    """Numbers that are known while a program is traced, or a ValueError."""
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(values)):
        raise ValueError(
            f"{name} is traced, but is a part of the program: make it outside of jit, vmap and grad"
        )
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must be an array of 0 and 1, got {values!r}")
    return array
