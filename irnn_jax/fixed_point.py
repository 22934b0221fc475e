"""The matrix-free entry: the equilibrium of any cell over any pytree state."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from irnn_jax.equilibrium import Equilibrium, adjoint_probe, as_equilibrium
from irnn_jax.forward_mode import forward_mode_explained
from irnn_jax.gradients import Exact, Gradient
from irnn_jax.implicit import AdjointReport, CellMethod, cell_equilibrium
from irnn_jax.solvers import Auto, Solver

Tree = TypeVar("Tree")


def fixed_point(
    cell: Callable[[Any, Tree, Any], Tree],
    params: Any,
    x: Any,
    y0: Tree,
    *,
    solver: Solver = Auto(),
    gradient: Gradient = Exact(),
    throw: bool = False,
    probe: AdjointReport | None = None,
) -> Equilibrium:
    """The equilibrium y = cell(params, y, x) that the flow from y0 reaches, for one sample.

    Nothing builds a Jacobian: Newton-like steps and the adjoint are Krylov solves on products
    with it. Batch with `jax.vmap`. What `cell` closes over may be traced and is differentiated.

    Args:
        cell: `cell(params, y, x)` -> a pytree like y, differentiable in JAX (also forwards).
        params: any pytree.
        x: any pytree; the sample.
        y0: where the search begins, any pytree of floating-point arrays.
        solver: how to reach the equilibrium; static under jit.
        gradient: how to differentiate it; static under jit.
        throw: raise (at run time) if the equilibrium, or its adjoint, does not converge.
        probe: see `adjoint_probe`, with leaves ().

    Returns:
        An `Equilibrium` with `activities` like y0 and scalar diagnostics.

    Raises:
        ValueError: y0 is not floating-point, or the cell does not return a state like y0.
        TypeError: under forward-mode differentiation.
        RuntimeError: `throw`, and an equilibrium was not reached.
    """
    y0 = jax.tree.map(jnp.asarray, y0)
    _check_cell(cell, params, x, y0)
    flat_y0, unflatten = ravel_pytree(y0)
    # Traced values that the cell closes over become explicit arguments, and so get gradients.
    closed, hoisted = jax.closure_convert(cell, params, y0, x)
    leaves, treedef = jax.tree.flatten(y0)
    flat_cell = FlatCell(
        # Where there are none, the cell itself: a second call finds the program of the first.
        cell=closed if hoisted else cell,
        treedef=treedef,
        leaves=tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves),
    )
    method = CellMethod(solver=solver, gradient=gradient, throw=throw, cell=flat_cell)
    if probe is None:
        probe = adjoint_probe((), flat_y0.dtype)
    with forward_mode_explained():
        solution = _solve(method, (params, hoisted), x, flat_y0, probe)
    return as_equilibrium(solution, unflatten(solution.state), throw=throw)


_solve = jax.jit(cell_equilibrium, static_argnums=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlatCell:
    """A cell on the flat state; hashable, and equal for the same cell and kind of state."""

    cell: Callable[..., Any]
    treedef: Any
    leaves: tuple[jax.ShapeDtypeStruct, ...]

    def __call__(self, inputs: Any, y: jax.Array, x: Any) -> jax.Array:
        """Cut y into the pytree, apply the cell and stack what it returns."""
        params, hoisted = inputs
        ends = itertools.accumulate(leaf.size for leaf in self.leaves[:-1])
        parts = jnp.split(y, list(ends))
        state = [
            part.reshape(leaf.shape).astype(leaf.dtype)
            for part, leaf in zip(parts, self.leaves, strict=True)
        ]
        return ravel_pytree(self.cell(params, self.treedef.unflatten(state), x, *hoisted))[0]


def _check_cell(cell: Callable[..., Any], params: Any, x: Any, y0: Any) -> None:
    for leaf in jax.tree.leaves(y0):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(f"y0 has dtype {leaf.dtype}, but a state is floating-point")
    expected, returned = _describe(y0), _describe(jax.eval_shape(cell, params, y0, x))
    if returned != expected:
        raise ValueError(
            f"cell must return a state like y0, which is {expected}, but returns {returned}"
        )


def _describe(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", tree)
