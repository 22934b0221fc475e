"""What a configuration's numbers must be, checked before anything is written."""

from collections.abc import Callable
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from experiments.harness.errors import BadConfig
from experiments.harness.training import make
from experiments.harness.vary import grid


class Rule(NamedTuple):
    """What a value must be, in words and as a test."""

    words: str
    holds: Callable[[Any], bool]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _are(rule: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda values: isinstance(values, list) and all(rule(value) for value in values)


COUNT = Rule("an integer, at least 1", lambda v: _is_int(v) and v >= 1)
SEED = Rule("an integer from 0 to 2^32 - 1", lambda v: _is_int(v) and 0 <= v < 2**32)
NUMBER = Rule("a number", _is_number)
WEIGHT = Rule("a number, at least 0", lambda v: _is_number(v) and v >= 0)
POSITIVE = Rule("a number above 0", lambda v: _is_number(v) and v > 0)
FLAG = Rule("true or false", lambda v: isinstance(v, bool))
COUNTS = Rule("a list of integers, each at least 1", _are(COUNT.holds))
OUTPUTS = Rule("a list of integers, each at least 0", _are(lambda v: _is_int(v) and v >= 0))
NUMBERS = Rule("a list of numbers", _are(_is_number))
RANGE = Rule(
    "two numbers, the second one larger",
    lambda v: isinstance(v, list) and len(v) == 2 and all(map(_is_number, v)) and v[0] < v[1],
)

# By the last part of a key. What a `_target_` takes is checked by its own constructor.
RULES = {
    "x64": FLAG,
    "seed": SEED,
    "recurrent": FLAG,
    "hidden": COUNTS,
    "trained": OUTPUTS,
    "output_range": RANGE,
    "penalty": WEIGHT,
    "hidden_sizes": COUNTS,
    "final_num_test": Rule("null or an integer, at least 1", lambda v: v is None or COUNT.holds(v)),
    "solved_below": POSITIVE,
    "difference": POSITIVE,
    "feedforward": NUMBER,
    "bias": NUMBER,
    "low": NUMBER,
    "high": NUMBER,
    "shown_inputs": NUMBERS,
    "shown_weights": NUMBERS,
} | dict.fromkeys(
    (
        *("num_runs", "num_seeds", "num_epochs", "num_steps", "steps_per_epoch", "batch_size"),
        *("eval_every", "report_every", "compare_at", "checkpoint_every"),
        *("num_test", "test_chunk", "count"),
    ),
    COUNT,
)


def check(config: DictConfig, *, name: str = "") -> None:
    """Raise a BadConfig that names the first key whose value cannot be run.

    Args:
        config: of one experiment.
        name: to put before its keys.
    """
    plain: Any = OmegaConf.to_container(config, resolve=True)
    # The values of `vary` are lists, whatever their keys stand for elsewhere.
    _check(config, {key: value for key, value in plain.items() if key != "vary"}, name)
    if "vary" in plain:
        grid(config)


def _check(node: DictConfig, plain: Any, prefix: str) -> None:
    if "_target_" in plain:
        make(node)
        return
    for key, value in plain.items():
        full = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, dict):
            _check(node[key], value, full)
        elif key in RULES and not RULES[key].holds(value):
            raise BadConfig(f"{full} must be {RULES[key].words}, got {value!r}")
