"""Programs that are traced once, found again by what they compute, and let go when they are old."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import jax.extend as jex
import numpy as np
from jax.core import Tracer

from irnn_jax.xla.rewrite import evaluate
from irnn_jax.xla.varying import vary

Solve = TypeVar("Solve", bound=Callable)

# Compiled programs that are kept: of the solves that are called outside of any `jit`.
KEPT = 64


def trace_once(solve: Solve) -> Solve:
    """`solve(method, *arrays)`, with a `method` that can be hashed, traced once for both callers.

    Where a derivative rule is differentiated, JAX traces its function, and then its forward rule in
    place of it. `jax.jit` keeps the first trace for the second, if only their contexts are the
    same; and they are, but for the mesh, which is none in the one and an empty one in the other.
    """
    jitted = compiled_by_method(solve)

    @functools.wraps(solve)
    def once(method: Any, *arguments: Any):
        with jax.sharding.use_abstract_mesh(jax.sharding.get_abstract_mesh()):
            return jitted(method, *arguments)

    return cast(Solve, once)


def compiled_by_method(solve: Solve) -> Solve:
    """`jax.jit` of `solve(method, *arrays)` for each method, of which the oldest are let go."""

    @functools.lru_cache(maxsize=KEPT)
    def jitted(method: Any) -> Callable[..., Any]:
        return jax.jit(functools.partial(solve, method))

    @functools.wraps(solve)
    def call(method: Any, *arguments: Any):
        return jitted(method)(*arguments)

    return cast(Solve, call)


class Program:
    """A traced function, equal to any other that computes and differentiates the same.

    JAX finds a program again by the function that it was made of, and a function that reads an
    attribute or a global has not changed when what it reads has. So it is traced anew at each call,
    which takes milliseconds, and what is found again is known by what was traced.
    """

    def __init__(self, closed: Any, derivative: Any):
        # Without its constants, which are arguments.
        self._program = closed.jaxpr
        self._key = (_described(closed.jaxpr), _described(derivative.jaxpr))
        self._hash = hash(self._key)

    def __call__(self, consts: Any, arguments: Any) -> list[Any]:
        """What it computes of its constants and arguments, flat."""
        # Inside of `jax.shard_map` what was shared when it was traced may differ by now.
        return evaluate(self._program, consts, arguments, {"pvary": _varied})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Program) and self._key == other._key

    def __hash__(self) -> int:
        return self._hash


def _described(program: Any) -> Any:
    """A hashable account of a program that says all that it computes."""
    names: dict[Any, int] = {}

    def atom(of: Any) -> Any:
        if isinstance(of, jex.core.Literal):
            value = np.asarray(of.val)
            return str(of.aval), value.dtype.str, value.tobytes()
        return names.setdefault(of, len(names)), str(of.aval)

    inputs = tuple(map(atom, program.constvars)), tuple(map(atom, program.invars))
    eqns = tuple(
        (
            eqn.primitive.name,
            tuple(map(atom, eqn.invars)),
            tuple((name, _value(value)) for name, value in sorted(eqn.params.items())),
            tuple(map(atom, eqn.outvars)),
        )
        for eqn in program.eqns
    )
    return inputs, eqns, tuple(map(atom, program.outvars))


def _value(value: Any) -> Any:
    if hasattr(value, "consts") and hasattr(value, "jaxpr"):
        return _described(value.jaxpr), tuple(map(_value, value.consts))
    if hasattr(value, "eqns"):
        return _described(value)
    if isinstance(value, tuple | list):
        return tuple(map(_value, value))
    if isinstance(value, np.ndarray | jax.Array) and not isinstance(value, Tracer):
        array = np.asarray(value)
        return array.shape, array.dtype.str, array.tobytes()
    if type(value).__name__ == "WrappedFun":
        # A derivative rule, anew in each trace: what it computes is in the derivative's program.
        return "rule"
    try:
        hash(value)
    except TypeError:
        return id(value), _Kept(value)
    return value


def _varied(operand: Any, *, axes: tuple[str, ...], **params: Any) -> Any:
    del params
    return vary(operand, axes)


class _Kept:
    """Something that is only equal to itself: kept, so that its number stays its own."""

    def __init__(self, value: Any):
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Kept) and self._value is other._value

    def __hash__(self) -> int:
        return id(self._value)
