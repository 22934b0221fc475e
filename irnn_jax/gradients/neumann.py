"""A truncated Neumann series for the adjoint (appendix A.2)."""

import dataclasses

import jax
import jax.numpy as jnp

from irnn_jax.gradients.base import Adjoint, relative_residual
from irnn_jax.linearisation import Linearisation, State
from irnn_jax.xla.loops import Loop, Plain


@dataclasses.dataclass(frozen=True, kw_only=True)
class Neumann:
    """w = sum of (J^T)^k c for k < num_terms, also known as the phantom gradient.

    It approximates `Exact` where the spectral radius of J is below one, and diverges elsewhere;
    the relative residual that is reported says which. It is an approximation by choice, so only a
    non-finite sum counts as failed.

    Attributes:
        num_terms: 1 is the one-step gradient.
    """

    num_terms: int

    def __post_init__(self):
        if self.num_terms < 1:
            raise ValueError(f"num_terms must be at least 1, got {self.num_terms}")

    def loop(self) -> Loop:
        """Nothing differentiates the solver."""
        return Plain()

    def adjoint(self, linear: Linearisation, cotangent: State) -> Adjoint:
        """Horner's scheme: w <- c + J^T w."""
        pullback = linear.product(True)

        def add_term(state: State, _: None) -> tuple[State, None]:
            return cotangent + pullback(state), None

        # A scan, not a fori_loop, so that reverse mode (second derivatives) goes through.
        state, _ = jax.lax.scan(add_term, cotangent, None, length=self.num_terms - 1)
        residual = relative_residual(linear, state, cotangent)
        finite = linear.layout.all(jnp.isfinite(state))
        return Adjoint(state=state, residual=residual, converged=finite)
