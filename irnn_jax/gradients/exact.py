"""The exact implicit gradient (eqs. 4-6, appendix B)."""

import dataclasses

import jax.numpy as jnp
import lineax as lx

from irnn_jax.gradients.base import Adjoint, AdjointSystem, relative_residual
from irnn_jax.problem import State


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exact:
    """Solve (I - J^T) w = g: directly for small networks, else by iteration, where it converges.

    The solve's own relative residual is computed; a sample above `tolerance` is taken out of the
    gradient and reported.

    Attributes:
        tolerance: largest relative residual that is accepted; None: eps^(1/2) of the dtype.
        linear_solver: a lineax solver for the matrix-free entry, for instance `lineax.BiCGStab`;
            None: GMRES. A network of up to 16 neurons is solved directly; of more by iteration,
            and where that is slow directly, beyond 100 after Anderson acceleration.
    """

    tolerance: float | None = None
    linear_solver: lx.AbstractLinearSolver | None = None

    def __post_init__(self):
        if self.tolerance is not None and not self.tolerance > 0:
            raise ValueError(f"tolerance must be positive, got {self.tolerance}")

    def adjoint(self, system: AdjointSystem, cotangent: State) -> Adjoint:
        """Solve, then check."""
        state = system.solve(cotangent, self.linear_solver)
        residual = relative_residual(system, state, cotangent)
        tolerance = self.tolerance
        if tolerance is None:
            tolerance = float(jnp.finfo(cotangent.dtype).eps) ** 0.5
        # NaN compares false: a singular system is not converged.
        return Adjoint(state=state, residual=residual, converged=residual <= tolerance)
