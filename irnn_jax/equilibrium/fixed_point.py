"""The matrix-free entry: the equilibrium of any cell over any pytree state."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike

from irnn_jax.equilibrium.record import Equilibrium, adjoint_probe, as_equilibrium
from irnn_jax.gradients import Exact, Gradient
from irnn_jax.gradients.forward_mode import both_modes_explained, forward_mode_explained
from irnn_jax.implicit import (
    AdjointFailure,
    AdjointReport,
    Method,
    asked_for,
    check_probe,
    goes_forward,
    solve_implicitly,
)
from irnn_jax.networks.cell_problem import CellInputs, CellKind, StateShape
from irnn_jax.networks.slowed import SlowedInputs, SlowedKind
from irnn_jax.networks.time_constants import rates_of_state
from irnn_jax.solvers import Auto, Solved, Solver
from irnn_jax.solvers.base import check_tolerance
from irnn_jax.xla.promotion import with_default_promotion
from irnn_jax.xla.rewrite import evaluate
from irnn_jax.xla.trace import Program, compiled_by_method

Tree = TypeVar("Tree")

HALVES = "convert_element_type"


def fixed_point(
    cell: Callable[[Any, Tree, Any], Tree],
    params: Any,
    x: Any,
    y0: Tree,
    *,
    batched: bool = False,
    solver: Solver = Auto(),
    gradient: Gradient = Exact(),
    time_constants: Any = None,
    check_stability: bool = True,
    tolerance: ArrayLike | None = None,
    throw: bool = False,
    adjoint_failure: AdjointFailure = "warn",
    probe: AdjointReport | None = None,
) -> Equilibrium:
    """The equilibrium y = cell(params, y, x) that the flow from y0 reaches.

    Nothing builds a Jacobian: the flow is followed by evaluations of the cell, and the adjoint is
    iterated on products with its Jacobian. A cell of one sample is batched by `jax.vmap`, which
    runs the same program as a cell that takes the whole batch, `batched=True`.

    The cell is traced anew at each call, and its program is found again by what it computes: it may
    read attributes and globals, of which today's values count. What it closes over may be traced,
    and is differentiated. A loop of your own is faster inside `jax.jit`, where nothing is traced
    again.

    Args:
        cell: `cell(params, y, x)` -> a pytree like y, differentiable in JAX; a `jax.custom_vjp` is
            enough.
        params: any pytree, for instance of a flax or equinox module; what is not a number in it
            (functions, names) is left as it is.
        x: any pytree; the sample, or with `batched` the samples, along the first axis of each leaf.
        y0: where the search begins, any pytree of floating-point arrays; with `batched` one for
            each sample, along the first axis of each leaf. A state of half precision is solved,
            and comes back, in float32, and so is what the cell rounds to half precision.
        batched: whether the cell takes a whole batch. Its samples must not meet: one that fails
            changes nothing for the others.
        solver: how to reach the equilibrium; static under jit.
        gradient: how to differentiate it; static under jit.
        time_constants: tau of tau dy/dt = cell(params, y, x) - y: a pytree like y0 of positive
            numbers or arrays that broadcast with its leaves; None: all are one. Only their ratios
            matter, of each sample. See `equilibrium`.
        check_stability: whether an equilibrium that the flow would leave counts as not converged;
            by products, an estimate. See `equilibrium`.
        tolerance: largest residual that counts as converged, in place of the solver's; may be
            traced, and differ between what `jax.vmap` maps over.
        throw: raise (at run time) if an equilibrium, or its adjoint, does not converge.
        adjoint_failure: see `equilibrium`.
        probe: see `adjoint_probe`, with leaves (), or (batch,).

    Returns:
        An `Equilibrium` with `activities` like y0 and diagnostics (), or (batch,).

    Raises:
        ValueError: y0 is not floating-point, the cell does not return a state like y0, the time
            constants are not positive or not like y0, or the leaves of y0 or x do not have one
            batch along their first axis; or a probe with `Exact(forward_mode=True)`.
        TypeError: under forward-mode differentiation without `Exact(forward_mode=True)`.
        RuntimeError: `throw`, and an equilibrium was not reached.
    """
    check_probe(gradient, probe)
    check_tolerance(tolerance)
    y0 = jax.tree.map(_as_state, y0)
    batch = _batch(y0, x) if batched else None
    wide = jax.tree.map(_widened, y0)
    traced, params_in, x_in = _traced(cell, params, x, y0, wide)
    if batch == 0 or all(leaf.size == 0 for leaf in jax.tree.leaves(wide)):
        return _nothing(wide, batch)
    kind = CellKind(
        cell=traced,
        shape=StateShape.of(wide, batch_axes=int(batched)),
        batched=batched,
        # What diffrax follows has a time of its own, and steps of its own number.
        joins=not getattr(solver, "own_time", False),
    )
    rate = rates_of_state(time_constants, y0, kind.shape, () if batch is None else (batch,))
    method = Method(
        kind=kind if rate is None else SlowedKind(kind=kind),
        solver=solver,
        gradient=gradient,
        throw=throw,
        stable=check_stability,
        adjoint_failure=asked_for(adjoint_failure, probe),
    )
    dtype = jnp.result_type(*(leaf.dtype for leaf in jax.tree.leaves(wide)))
    shape = () if batch is None else (batch,)
    probe = adjoint_probe(shape, dtype) if probe is None else probe
    if tolerance is not None:
        tolerance = jnp.broadcast_to(jnp.asarray(tolerance, dtype), (*(shape or (1,)), 1))
    inputs = CellInputs(params_in, x_in, tolerance)
    explained = both_modes_explained if goes_forward(gradient) else forward_mode_explained
    with explained():
        solved = _solve(method, inputs, wide, probe, rate)
    activities = kind.shape.unflatten(solved.state if batched else solved.state[0])
    numbers_of = jax.tree.map(lambda leaf: leaf.reshape(shape), solved._replace(state=None))
    return as_equilibrium(numbers_of, activities, throw=throw)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Cell:
    """A traced cell, hashable: ((params, constants), state, x) -> state."""

    program: Program
    out: Any

    def __call__(self, given: Any, state: Any, x: Any) -> Any:
        params, consts = given
        return self.out.unflatten(self.program(consts, jax.tree.leaves((params, x, state))))


def _traced(
    cell: Callable[..., Any], params: Any, x: Any, y0: Any, wide: Any
) -> tuple[_Cell, Any, Any]:
    """The cell's program, (the parameters' numbers, what it closes over), and those of x."""
    numbers, rest = eqx.partition((params, x), eqx.is_array_like)
    params_in, x_in = jax.tree.map(_widened, numbers)

    def of_numbers(params_in: Any, x_in: Any, y: Any) -> Any:
        return cell(*_with(rest, params_in, x_in, y))

    # By what the state is, and not by what the cell does inside: its own rounding is its own.
    keep_wide = _describe(y0) != _describe(wide)
    program, consts, returned = _trace(of_numbers, params_in, x_in, wide, keep_wide=keep_wide)
    _check_state(returned, y0, wide)
    return _Cell(program=program, out=jax.tree.structure(returned)), (params_in, consts), x_in


@compiled_by_method
@with_default_promotion
def _solve(
    method: Method, inputs: Any, y0: Any, probe: AdjointReport, rate: Array | None
) -> Solved:
    kind: Any = method.kind if rate is None else cast(Any, method.kind).kind
    batch = jax.tree.leaves(y0)[0].shape[:1] if kind.batched else ()
    flat = kind.shape.flatten(y0, batch).reshape(batch[0] if batch else 1, -1)
    if rate is not None:
        inputs = SlowedInputs(inputs, rate.astype(flat.dtype))
    probe = jax.tree.map(lambda leaf: jnp.asarray(leaf, flat.dtype).reshape(-1), probe)
    return solve_implicitly(method, inputs, flat, probe)


def _trace(
    function: Callable[..., Any], *arguments: Any, keep_wide: bool
) -> tuple[Program, list[Any], Any]:
    """The program of a function, what it closes over, and what it returns."""
    # By new functions, since JAX keeps the trace of one that it has seen.
    closed, returned = jax.make_jaxpr(lambda *a: function(*a), return_shape=True)(*arguments)
    leaves = jax.tree.leaves(arguments)
    if keep_wide:
        run, rules = closed, {HALVES: _kept_wide}
        closed = jax.make_jaxpr(lambda *a: evaluate(run.jaxpr, run.consts, a, rules))(*leaves)
    given, state = leaves[: -len(jax.tree.leaves(arguments[-1]))], arguments[-1]

    def pulled_back(state: list[Any]) -> Any:
        out, pull = jax.vjp(
            lambda *y: evaluate(closed.jaxpr, closed.consts, (*given, *y), {}), *state
        )
        return pull(out)

    derivative = jax.make_jaxpr(pulled_back)(jax.tree.leaves(state))
    return Program(closed, derivative), closed.consts, returned


def _kept_wide(operand: Any, *, new_dtype: Any, **params: Any) -> Any:
    """A conversion, which to half precision is one to float32."""
    half = jnp.issubdtype(new_dtype, jnp.floating) and jnp.finfo(new_dtype).bits < 32
    return jax.lax.convert_element_type(operand, jnp.float32 if half else new_dtype)


def _with(rest: Any, params: Any, x: Any, y: Any) -> tuple[Any, Any, Any]:
    """The cell's arguments, with what is not a number back in its place."""
    params, x = eqx.combine((params, x), rest)
    return params, y, x


def _as_state(leaf: Any) -> jax.Array:
    """A leaf of y0 as an array of its own dtype; a Python number has JAX's default."""
    leaf = jnp.asarray(leaf)
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        raise ValueError(f"y0 has dtype {leaf.dtype}, but a state is floating-point")
    return jax.lax.convert_element_type(leaf, leaf.dtype)


def _widened(leaf: Any) -> jax.Array:
    """Half precision in float32; Python numbers as arrays."""
    leaf = jnp.asarray(leaf)
    half = jnp.issubdtype(leaf.dtype, jnp.floating) and jnp.finfo(leaf.dtype).bits < 32
    return leaf.astype(jnp.float32) if half else leaf


def _batch(y0: Any, x: Any) -> int:
    """The length of the first axis of every leaf."""
    sizes = {}
    for name, tree in (("y0", y0), ("x", x)):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            if eqx.is_array_like(leaf):
                where = name + jax.tree_util.keystr(path)
                if jnp.ndim(leaf) == 0:
                    raise ValueError(f"{where} is a scalar, but batched=True takes (batch, ...)")
                sizes[where] = jnp.shape(leaf)[0]
    if not any(where.startswith("y0") for where in sizes):
        raise ValueError("y0 has no arrays, but batched=True takes (batch, ...)")
    if len(set(sizes.values())) > 1:
        raise ValueError(f"batched=True takes one batch along the first axis, got {sizes}")
    return next(iter(sizes.values()))


def _check_state(returned: Any, y0: Any, wide: Any) -> None:
    """A ValueError unless the cell returns a state like y0, or as it was widened."""
    expected, got = _describe(y0), _describe(returned)
    if got not in (expected, _describe(wide)):
        raise ValueError(
            f"cell must return a state like y0, which is {expected}, but returns {got}"
        )


def _describe(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", tree)


def _nothing(y0: Any, batch: int | None) -> Equilibrium:
    """Of an empty batch, or of an empty state, which is where it will stay."""
    shape = () if batch is None else (batch,)
    dtype = jnp.result_type(*(leaf.dtype for leaf in jax.tree.leaves(y0)))
    return Equilibrium(
        activities=y0,
        residual=jnp.zeros(shape, dtype),
        num_steps=jnp.zeros(shape, jnp.int32),
        converged=jnp.ones(shape, bool),
        status=jnp.zeros(shape, jnp.int32),
        sensitivity=jnp.ones(shape, dtype),
    )
