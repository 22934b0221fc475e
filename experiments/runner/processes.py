"""Several processes that compute together: the first one reads, writes and decides for all."""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from experiments.runner.errors import BadConfig


def is_first() -> bool:
    return jax.process_index() == 0


def share(data: bytes) -> bytes:
    """The first process's bytes, on all of them."""
    if jax.process_count() == 1:
        return data
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    # As small integers: a broadcast is a sum, which would lose the sign of a zero.
    buffer = np.frombuffer(data, np.uint8) if is_first() else np.zeros(size, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(buffer), np.uint8).tobytes()


def decide(decision: Callable[[], Any]) -> Any:
    """What the first process decides, as JSON has it, on all of them; a BadConfig too."""
    if jax.process_count() == 1:
        return decision()
    answer: dict[str, Any] = {}
    if is_first():
        try:
            answer = {"decision": decision()}
        except BadConfig as error:
            answer = {"error": str(error)}
    answer = json.loads(share(json.dumps(answer).encode()))
    if "error" in answer:
        raise BadConfig(answer["error"])
    return answer["decision"]
