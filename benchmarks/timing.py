"""Paired timings: every contender once a round, so that a drifting machine moves all alike."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax


class Timing(NamedTuple):
    """Seconds: of the first call, compilation included, and the median of the rounds."""

    first: float
    median: float
    fastest: float


def paired(contenders: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, Timing]:
    """Time each contender `rounds` times, in turn, each blocked upon until its result is there."""
    first = {name: _seconds(call) for name, call in contenders.items()}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            seconds[name].append(_seconds(call))
    return {
        name: Timing(first=first[name], median=statistics.median(times), fastest=min(times))
        for name, times in seconds.items()
    }


def machine() -> str:
    """What the numbers were measured on."""
    device = jax.devices()[0]
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, {device.device_kind}, jax {jax.__version__}"
    )


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start
