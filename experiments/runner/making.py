"""Objects from the configuration: what a `_target_` names, its arguments checked by their types."""

import dataclasses
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from experiments.runner.errors import BadConfig


def make(node: DictConfig, replaced: Mapping[str, Any] | None = None) -> Any:
    """The object that `node._target_` names, some arguments replaced, by dotted path.

    Lists become tuples: strategies are hashable.
    """
    try:
        build = instantiate(node, _partial_=True, _convert_="all")
        arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in build.keywords.items()}
        check_types(build.func, arguments)
        for path, value in (replaced or {}).items():
            *parents, last = path.split(".")
            inner: Any = arguments
            for parent in parents:
                inner = inner[parent]
            inner[last] = value
        return build.func(**arguments)
    except (InstantiationException, TypeError, ValueError) as error:
        raise BadConfig(f"{node._get_full_key(None)}: {error}") from error


def check_types(function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    """Raise a TypeError that names the first number, flag or text that is of another type."""
    if not dataclasses.is_dataclass(function):
        return
    plain = {int, float, bool, str, type(None)}
    for name, hint in get_type_hints(function).items():
        is_union = get_origin(hint) in (Union, UnionType)
        types = set(get_args(hint)) if is_union else {hint}
        if name in arguments and types <= plain:
            value = arguments[name]
            found = {type(value)} | ({float} if type(value) is int else set())
            if not found & types:
                names = sorted("null" if t is type(None) else t.__name__ for t in types)
                raise TypeError(f"{name} must be {' or '.join(names)}, got {value!r}")
