"""(I - K) w = rhs for a batch, by products with K alone: what any problem can do."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float

from irnn_jax.linalg.krylov import bicgstab, gmres
from irnn_jax.linalg.layout import Layout
from irnn_jax.xla.conditional import run_if
from irnn_jax.xla.loops import Plain

State = Float[Array, "*state"]
Numbers = Float[Array, "*numbers"]
Flags = Bool[Array, "*numbers"]

# While each step leaves less than this of the change, and how often; then BiCGStab.
RICHARDSON_RATIO, RICHARDSON_STEPS, BICGSTAB_STEPS = 0.6, 60, 300


def solve_by_products(product: Callable[[State], State], rhs: State, layout: Layout) -> State:
    """Solve w = rhs + K w for each sample, to eps^(3/4) of its rhs, by products with K alone."""
    accuracy = float(jnp.finfo(rhs.dtype).eps) ** 0.75
    enough = accuracy * layout.size(rhs)
    w = _richardson(product, rhs, enough, layout)

    def operator(v: State) -> State:
        return v - product(v)

    def unsolved(w: State) -> Flags:
        return layout.size(rhs - operator(w)) > enough

    def by_bicgstab(w: State) -> State:
        found = bicgstab(operator, rhs, w, enough, layout, BICGSTAB_STEPS)
        return jnp.where(jnp.isfinite(layout.size(found)), found, 0)

    def by_gmres(w: State) -> State:
        left = unsolved(w)
        missing = jnp.where(left, rhs - operator(w), 0)
        return w + gmres(operator, missing, accuracy, layout)

    w = run_if(unsolved(w), by_bicgstab, w)
    return run_if(unsolved(w), by_gmres, w)


def _richardson(
    product: Callable[[State], State], rhs: State, enough: Numbers, layout: Layout
) -> State:
    """W <- rhs + K w while the change shrinks fast, of each sample."""

    def advance(number: Array, at: tuple[State, Numbers, Flags]) -> tuple[State, Numbers, Flags]:
        del number
        w, before, going = at
        after = rhs + product(w)
        change = layout.size(after - w)
        # What w has missed is the change; NaN compares false, and ends the sample.
        going = going & (change > enough) & (change <= RICHARDSON_RATIO * before)
        return after, change, going

    size = layout.size(rhs)
    start = (rhs, jnp.full_like(size, jnp.inf), size > 0)
    return Plain().repeat(advance, start, lambda at: at[2], RICHARDSON_STEPS)[0]


def solve_with_lineax(
    product: Callable[[State], State],
    rhs: State,
    linear_solver: lx.AbstractLinearSolver,
) -> State:
    """Solve w = rhs + K w by a solver of lineax: the batch as one system. It never raises."""
    operator = lx.FunctionLinearOperator(
        lambda w: w - product(w), jax.ShapeDtypeStruct(rhs.shape, rhs.dtype)
    )
    return lx.linear_solve(operator, rhs, linear_solver, throw=False).value
