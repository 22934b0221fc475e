"""What a gradient strategy is: a way to the adjoint state at an equilibrium.

At Y = map(Y), with J the Jacobian of `map` there, the cotangent g of Y becomes

    w = (I - J^T)^-1 g,    and then    dL/dtheta = (d map / d theta)^T w.

For the dense map f(A Y + b), J = D A, and u = D w is dL/db. Strategies differ in how, and how
exactly, they find w; what follows is the same for all.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float

from irnn_jax.max_norm import max_norm
from irnn_jax.problem import State


class Adjoint(NamedTuple):
    """The adjoint states of a batch, and what is known about them.

    Attributes:
        state: w, (n, *batch).
        residual: max|g - (I - J^T) w| / max|g|, (*batch).
        converged: whether w may be used, (*batch).
    """

    state: State
    residual: Float[Array, "*batch"]
    converged: Bool[Array, "*batch"]


class AdjointSystem(NamedTuple):
    """The linear systems of a batch, which lies last; a cell's has one sample, (n,).

    Attributes:
        pullback: w -> J^T w.
        feedforward_pullback: w -> J_Q^T w, J_Q the part of J through feed-forward weights.
        depth: the number of layers: J_Q is nilpotent of this index.
        solve: g, linear solver -> (I - J^T)^-1 g. Not trusted: strategies check its residual.
    """

    pullback: Callable[[State], State]
    feedforward_pullback: Callable[[State], State]
    depth: int
    solve: Callable[[State, lx.AbstractLinearSolver | None], State]


@runtime_checkable
class ImplicitGradient(Protocol):
    """A frozen, keyword-only, hashable dataclass with one method."""

    def adjoint(self, system: AdjointSystem, cotangent: State) -> Adjoint:
        """The adjoint state that belongs to the cotangent of Y."""
        ...


def relative_residual(
    system: AdjointSystem, state: State, cotangent: State
) -> Float[Array, "*batch"]:
    """max|g - (I - J^T) w| / max|g|, 0 for a cotangent of zero, inf where it is not a number."""
    missed = cotangent - state + system.pullback(state)
    scale = max_norm(cotangent)
    relative = max_norm(missed) / jnp.where(scale > 0, scale, 1)
    return jnp.where(jnp.isnan(relative), jnp.inf, relative)
