"""Backpropagation through the solver's own iterations (eqs. 11-13): the baseline."""

import dataclasses

import diffrax


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unrolled:
    """Differentiate every step that the solver took.

    What the implicit gradients are compared with: no adjoint system, but memory that grows with
    the number of steps (or with its square root, by recomputation). A sample that did not converge
    is flagged and has no gradient, as everywhere.

    Attributes:
        checkpoints: how many states diffrax keeps; None: about the square root of `max_steps`.
    """

    checkpoints: int | None = None

    def __post_init__(self):
        if self.checkpoints is not None and self.checkpoints < 1:
            raise ValueError(f"checkpoints must be at least 1, got {self.checkpoints}")

    def diffrax_adjoint(self) -> diffrax.AbstractAdjoint:
        """How diffrax backpropagates through its loop."""
        return diffrax.RecursiveCheckpointAdjoint(checkpoints=self.checkpoints)
