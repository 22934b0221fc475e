"""Backpropagation through the solver's own iterations (eqs. 11-13): the baseline."""

import dataclasses

from irnn_jax.gradients.base import Adjoint
from irnn_jax.linearisation import Linearisation, State
from irnn_jax.xla.loops import Differentiable, Loop


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unrolled:
    """Differentiate every step that the solver took.

    What the implicit gradients are compared with: no adjoint system, but memory that grows with
    the number of steps (or with its square root, by recomputation). A sample that did not converge
    is flagged and has no gradient, as everywhere.

    Attributes:
        checkpoints: how many states are kept; None: about the square root of the largest number of
            steps.
    """

    checkpoints: int | None = None

    def __post_init__(self):
        if self.checkpoints is not None and self.checkpoints < 1:
            raise ValueError(f"checkpoints must be at least 1, got {self.checkpoints}")

    def loop(self) -> Loop:
        """JAX goes back through it."""
        return Differentiable(self.checkpoints)

    def adjoint(self, linear: Linearisation, cotangent: State) -> Adjoint:
        """None is solved for."""
        raise TypeError("an unrolled gradient has no adjoint system")
