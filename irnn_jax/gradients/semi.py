"""The semi-gradient (section 3.3): no linear system at all."""

import dataclasses

import jax.numpy as jnp

from irnn_jax.gradients.base import Adjoint, AdjointSystem
from irnn_jax.problem import State


@dataclasses.dataclass(frozen=True, kw_only=True)
class SemiGradient:
    """Activities that enter through recurrent weights (W, R) are constants.

    Only the feed-forward path from layer to layer is differentiated, as in backpropagation. A
    one-layer network gets the one-step gradient; so does a cell, whose state enters recurrently.
    """

    def adjoint(self, system: AdjointSystem, cotangent: State) -> Adjoint:
        """Find w = (I - J_Q^T)^-1 g, by substitution from the output layer down."""
        state = cotangent
        for _ in range(system.depth - 1):
            state = cotangent + system.feedforward_pullback(state)
        # Substitution is exact: the series in the nilpotent J_Q ends.
        residual = jnp.zeros(state.shape[1:], state.dtype)
        return Adjoint(
            state=state, residual=residual, converged=jnp.all(jnp.isfinite(state), axis=0)
        )
