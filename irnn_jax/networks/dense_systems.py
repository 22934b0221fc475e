"""(1 + damping) I - D A of a batch, factorised or by products: what a Newton step solves."""

from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from irnn_jax.linalg.dense import Blocks, Inverse, Lapack, multiply
from irnn_jax.linalg.krylov import gmres
from irnn_jax.linalg.layout import NEURONS_FIRST

State = Float[Array, "n *batch"]
# One for each sample, or for each of its neurons.
Scale = Float[Array, "_ *batch"]


class ScaledSystem(eqx.Module):
    """A number for each sample, or each neuron of it, times a factorised matrix."""

    factors: Inverse | Blocks | Lapack
    scale: Scale
    is_iterative: ClassVar[bool] = False

    def solve(self, rhs: State) -> State:
        """Solve scale M x = rhs."""
        return self.factors.solve(rhs.astype(jnp.float32) / self.scale)

    def determinant_is_positive(self) -> Bool[Array, "1 *batch"]:
        """The scale is positive, and does not change the sign."""
        return self.factors.determinant_is_positive()[None]


class WideSystem(eqx.Module):
    """scale I - D A for a batch of wide systems, by products with the matrices alone."""

    matrix: Float[Array, "n n *shared"]
    slope: State
    scale: Scale
    tolerance: float = eqx.field(static=True)
    is_iterative: ClassVar[bool] = True

    def solve(self, rhs: State) -> State:
        """Solve (scale I - D A) x = rhs by GMRES, whose products are one with a shared matrix."""

        def operator(v: State) -> State:
            return self.scale * v - self.slope * multiply(self.matrix, v)

        def solve(operator: Callable[[State], State], rhs: State) -> State:
            return gmres(operator, rhs, self.tolerance, NEURONS_FIRST)

        # JAX's rule for a linear solve differentiates the system, and never how it is solved.
        rhs = rhs.astype(jnp.float32)
        return jax.lax.custom_linear_solve(operator, rhs, solve, transpose_solve=solve)

    def determinant_is_positive(self) -> Bool[Array, "_ *batch"]:
        """Nothing is known of the determinant."""
        return jnp.ones_like(self.scale, bool)
