"""What a gradient strategy is: a way to the adjoint state at an equilibrium.

At Y = g(Y), with J the Jacobian of g there, the cotangent c of Y becomes

    w = (I - J^T)^-1 c,    and then    dL/dtheta = (dg/dtheta)^T w.

For a network g = f(A Y + b), J = D A, and u = D w is dL/db. Strategies differ in how, and how
exactly, they find w; what follows is the same for all.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from irnn_jax.linearisation import Linearisation, State
from irnn_jax.xla.loops import Loop


class Adjoint(NamedTuple):
    """The adjoint states of a batch, and what is known about them.

    Attributes:
        state: w.
        residual: max|c - (I - J^T) w| / max|c|, of each sample.
        converged: whether w may be used, of each sample.
    """

    state: State
    residual: Float[Array, "*numbers"]
    converged: Bool[Array, "*numbers"]


@runtime_checkable
class Gradient(Protocol):
    """A frozen, keyword-only, hashable dataclass.

    An implicit gradient has an `adjoint`. `Unrolled` has a loop with a reverse mode in its place.
    """

    def loop(self) -> Loop:
        """What the solver repeats its steps by."""
        ...

    def adjoint(self, linear: Linearisation, cotangent: State) -> Adjoint:
        """The adjoint state that belongs to the cotangent of Y."""
        ...


def relative_residual(
    linear: Linearisation, state: State, rhs: State, *, transposed: bool = True
) -> Float[Array, "*numbers"]:
    """max|c - (I - J^T) w| / max|c|, 0 for a right-hand side c of zero, inf where it is no number.

    With J in place of J^T unless `transposed`.
    """
    missed = rhs - state + linear.product(transposed)(state)
    scale = linear.layout.size(rhs)
    relative = linear.layout.size(missed) / jnp.where(scale > 0, scale, 1)
    return jnp.where(jnp.isnan(relative), jnp.inf, relative)
