"""A traced program, evaluated with some of its operations replaced."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.extend as jex

# Operations that run a program of their own, and by which name they hold it.
INNER = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}

Rules = Mapping[str, Callable[..., Any]]


def has_any(program: Any, names: Rules) -> bool:
    """Whether one of these operations is in it."""
    for eqn in program.eqns:
        inner = _inner(eqn)
        if eqn.primitive.name in names or (inner is not None and has_any(inner.jaxpr, names)):
            return True
    return False


def operations(program: Any) -> set[str]:
    """The names of all operations in it, those of loops and branches included."""
    names: set[str] = set()
    for eqn in program.eqns:
        names.add(eqn.primitive.name)
        for held in jax.tree.leaves(list(eqn.params.values())):
            inner = _program_of(held)
            if inner is not None:
                names |= operations(inner)
    return names


def evaluate(
    program: Any, consts: Sequence[Any], arguments: Sequence[Any], rules: Rules
) -> list[Any]:
    """What the program returns, flat, with `rules[name](*operands, **params)` in place of some.

    Inside of a derivative rule of a function's own, where there is one of these operations, the
    rule is lost. Loops and branches stay as they are.
    """
    values: dict[Any, Any] = {}

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, jex.core.Literal) else values[atom]

    values.update(zip(program.constvars, consts, strict=True))
    values.update(zip(program.invars, arguments, strict=True))
    for eqn in program.eqns:
        given = [read(atom) for atom in eqn.invars]
        inner = _inner(eqn)
        if eqn.primitive.name in rules:
            found = [rules[eqn.primitive.name](*given, **eqn.params)]
        elif inner is not None and has_any(inner.jaxpr, rules):
            found = evaluate(inner.jaxpr, inner.consts, given, rules)
        else:
            with eqn.ctx.manager:
                found = eqn.primitive.bind(*given, **eqn.primitive.get_bind_params(eqn.params))
            found = found if eqn.primitive.multiple_results else [found]
        values.update(zip(eqn.outvars, found, strict=True))
    return [read(atom) for atom in program.outvars]


def _program_of(value: Any) -> Any:
    """What operations a parameter holds, if it is a program."""
    value = getattr(value, "jaxpr", value)
    return value if hasattr(value, "eqns") else None


def _inner(eqn: Any) -> Any:
    """The closed program that an operation runs, if it is one of `INNER`."""
    inner = eqn.params.get(INNER.get(eqn.primitive.name, ""))
    return inner if inner is None or hasattr(inner, "consts") else jex.core.ClosedJaxpr(inner, ())
