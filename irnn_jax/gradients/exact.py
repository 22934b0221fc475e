"""The exact implicit gradient (eqs. 4-6, appendix B)."""

import dataclasses

import jax.numpy as jnp
import lineax as lx

from irnn_jax.gradients.base import Adjoint, relative_residual
from irnn_jax.gradients.linear_solve import solve_linear
from irnn_jax.linearisation import Linearisation, State
from irnn_jax.xla.loops import Loop, Plain


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exact:
    """Solve (I - J^T) w = c: directly for small networks, else by iteration, where it converges.

    The solve's own relative residual is computed; a sample above `tolerance` is taken out of the
    gradient and reported.

    Attributes:
        tolerance: largest relative residual that is accepted; None: eps^(1/2) of the dtype.
        linear_solver: a solver of lineax for systems that are known by products, for instance
            `lineax.BiCGStab(rtol=1e-10, atol=1e-10)`, for the whole batch as one system. None: of a
            network of up to 16 neurons directly, of more by iteration, and where that is slow
            directly, beyond 100 after Anderson acceleration; of a cell by iteration, then BiCGStab,
            then GMRES.
        forward_mode: whether `jax.jvp`, `jax.jacfwd`, `jax.linearize` and `jax.hessian` go through
            too, as well as reverse mode, and each through the other. There is no `probe=` then.
    """

    tolerance: float | None = None
    linear_solver: lx.AbstractLinearSolver | None = None
    forward_mode: bool = False

    def __post_init__(self):
        if self.tolerance is not None and not self.tolerance > 0:
            raise ValueError(f"tolerance must be positive, got {self.tolerance}")

    def loop(self) -> Loop:
        """Nothing differentiates the solver."""
        return Plain()

    def adjoint(self, linear: Linearisation, cotangent: State) -> Adjoint:
        """Solve, then check."""
        return self.solve_system(linear, cotangent, transposed=True)

    def solve_system(self, linear: Linearisation, rhs: State, *, transposed: bool) -> Adjoint:
        """(I - J^T)^-1 rhs if `transposed`, else (I - J)^-1 rhs, the tangent of Y, checked."""
        state: State = solve_linear(transposed, self.linear_solver, linear, rhs)
        residual = relative_residual(linear, state, rhs, transposed=transposed)
        tolerance = self.tolerance
        if tolerance is None:
            tolerance = float(jnp.finfo(rhs.dtype).eps) ** 0.5
        # NaN compares false: a singular system is not converged.
        return Adjoint(state=state, residual=residual, converged=residual <= tolerance)
