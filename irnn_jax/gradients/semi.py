"""The semi-gradient (section 3.3): no linear system at all."""

import dataclasses

import jax.numpy as jnp

from irnn_jax.gradients.base import Adjoint
from irnn_jax.linearisation import Linearisation, State
from irnn_jax.xla.loops import Loop, Plain


@dataclasses.dataclass(frozen=True, kw_only=True)
class SemiGradient:
    """Activities that enter through recurrent weights (W, R) are constants.

    Only the feed-forward path from layer to layer is differentiated, as in backpropagation. A
    one-layer network gets the one-step gradient; so does a cell, whose state enters recurrently.
    """

    def loop(self) -> Loop:
        """Nothing differentiates the solver."""
        return Plain()

    def adjoint(self, linear: Linearisation, cotangent: State) -> Adjoint:
        """Find w = (I - J_Q^T)^-1 c, by substitution from the output layer down."""
        state = cotangent
        for _ in range(linear.depth - 1):
            state = cotangent + linear.feedforward_pullback(state)
        finite = linear.layout.all(jnp.isfinite(state))
        # Substitution is exact: the series in the nilpotent J_Q ends.
        return Adjoint(state=state, residual=jnp.zeros(finite.shape, state.dtype), converged=finite)
