"""What a configuration must hold, as frozen dataclasses; checked before anything is written.

Every experiment has one of its own, `Config`, which says what each number must be.
"""

import dataclasses
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from experiments.runner.errors import BadConfig
from experiments.runner.making import make
from experiments.runner.vary import grid


class Rule(NamedTuple):
    """What a value must be, in words and as a test."""

    words: str
    holds: Callable[[Any], bool]


def _is_int(value: Any, low: float = -float("inf"), high: float = float("inf")) -> bool:
    return type(value) is int and low <= value <= high


def _is_number(value: Any, low: float = -float("inf")) -> bool:
    return type(value) in (int, float) and value >= low


def _are(values: Any, rule: Callable[..., bool], *bounds: float) -> bool:
    return isinstance(values, list) and all(rule(value, *bounds) for value in values)


def _is_range(value: Any) -> bool:
    return _are(value, _is_number) and len(value) == 2 and value[0] < value[1]


Flag = Annotated[bool, Rule("true or false", lambda v: isinstance(v, bool))]
Count = Annotated[int, Rule("an integer, at least 1", lambda v: _is_int(v, 1))]
MaybeCount = Annotated[
    int | None, Rule("null or an integer, at least 1", lambda v: v is None or _is_int(v, 1))
]
Seed = Annotated[int, Rule("an integer from 0 to 2^32 - 1", lambda v: _is_int(v, 0, 2**32 - 1))]
Number = Annotated[float, Rule("a number", _is_number)]
Weight = Annotated[float, Rule("a number, at least 0", lambda v: _is_number(v, 0))]
Positive = Annotated[float, Rule("a number above 0", lambda v: _is_number(v, 0) and v > 0)]
Counts = Annotated[
    list[int], Rule("a list of integers, each at least 1", lambda v: _are(v, _is_int, 1))
]
Outputs = Annotated[
    list[int], Rule("a list of integers, each at least 0", lambda v: _are(v, _is_int, 0))
]
Numbers = Annotated[list[float], Rule("a list of numbers", lambda v: _are(v, _is_number))]
Range = Annotated[list[float], Rule("two numbers, the second one larger", _is_range)]


@dataclasses.dataclass(frozen=True)
class Machine:
    """Where and how a run is computed, and not what: free to change when it is resumed."""

    resume: Flag
    devices: MaybeCount
    tensorboard: Flag


@dataclasses.dataclass(frozen=True)
class Model:
    hidden: Counts


@dataclasses.dataclass(frozen=True)
class Network:
    recurrent: Flag


@dataclasses.dataclass(frozen=True)
class Training:
    """What all experiments have that train networks."""

    x64: Flag
    seed: Seed
    checkpoint_every: Count
    penalty: Weight
    model: Model
    networks: Mapping[str, Network]


@dataclasses.dataclass(frozen=True)
class Epochs(Training):
    """Those that train all runs of a network in epochs, on random batches."""

    num_runs: Count
    num_epochs: Count
    steps_per_epoch: Count
    batch_size: Count
    eval_every: Count
    test_chunk: Count


def check(config: DictConfig, schema: type, *, name: str = "") -> None:
    """Raise a BadConfig that names the first key whose value cannot be run.

    Args:
        config: of one experiment; keys that the schema lacks are left to whoever reads them.
        schema: what it must hold. All that a `_target_` names is made once, to see whether it can.
        name: to put before its keys.
    """
    _check(OmegaConf.to_container(config, resolve=True), schema, name)
    _make_all(config)
    if "vary" in config:
        grid(config)


def _check(value: Any, hint: Any, key: str) -> None:
    if typing.get_origin(hint) is Annotated:
        rule = hint.__metadata__[0]
        if not rule.holds(value):
            raise BadConfig(f"{key} must be {rule.words}, got {value!r}")
        return
    if not isinstance(value, dict):
        raise BadConfig(f"{key} must be a group of keys, got {value!r}")
    if typing.get_origin(hint) is Mapping:
        hints = dict.fromkeys(value, typing.get_args(hint)[1])
    else:
        hints = typing.get_type_hints(hint, include_extras=True)
    for name, inner in hints.items():
        full = f"{key}.{name}" if key else name
        if name not in value:
            raise BadConfig(f"{full} is missing{_words(inner)}")
        _check(value[name], inner, full)


def _words(hint: Any) -> str:
    is_rule = typing.get_origin(hint) is Annotated
    return f": it must be {hint.__metadata__[0].words}" if is_rule else ""


def _make_all(node: DictConfig) -> None:
    if "_target_" in node:
        make(node)
        return
    for inner in node.values():
        if isinstance(inner, DictConfig):
            _make_all(inner)
