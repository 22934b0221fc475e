"""How long a step along the flow is, and when it becomes one of Newton's."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from irnn_jax.solvers.rodas3 import StepReport

# 1/eps of float32, in which steps are solved: with an h so large they are Newton's to rounding.
NEWTON_STEP_SIZE = 2.0**23


@dataclasses.dataclass(frozen=True, kw_only=True)
class FollowThenNewton:
    """Choose h by the error of the step; let it go where the equilibrium is near.

    On the way h is multiplied by 0.8 (error_tolerance/error)^(1/3), within [0.1, 1e6]. A step is
    rejected when its error is above `reject_above`, is not finite, or the step leapt across a pole.

    Where the equilibrium is less than `newton_within` ahead the linear model should hold all the
    way, and h is raised by another (newton_within/ahead)^2: the steps become Newton's. Such a
    step must lower the residual too. If it is rejected, h goes back to the last one by which the
    flow was followed.
    """

    error_tolerance: float
    reject_above: float
    newton_within: float

    def next_step_size(
        self,
        report: StepReport,
        scale: Float[Array, "*numbers"],
        h: Float[Array, "*numbers"],
        followed: Float[Array, "*numbers"],
    ) -> tuple[Bool[Array, "*numbers"], Float[Array, "*numbers"], Float[Array, "*numbers"]]:
        """Whether to keep the step of size h, the next h, and the next `followed`.

        Errors and distances are relative to `scale`, the size of the state.
        """
        error = report.error / scale
        error = jnp.where(jnp.isnan(error), jnp.inf, error)
        newton = h > 2 * followed
        keep: Bool[Array, "*numbers"] = (
            (error <= self.reject_above) & ~report.across_pole & ~(newton & (report.ratio > 1))
        )
        # Not the cube root, for which XLA has no vector instructions on a CPU.
        factor = 0.8 * jnp.exp(jnp.log(self.error_tolerance / error) / 3)
        factor = jnp.clip(factor, 0.1, jnp.where(keep, 1e6, 0.5))
        factor = jnp.where(report.across_pole, jnp.minimum(factor, 0.25), factor)
        # A Newton step says nothing about how well the flow can be followed.
        followed = jnp.where(newton, followed, h * factor)
        near = jnp.maximum(1, (self.newton_within * scale / report.ahead) ** 2)
        h = jnp.where(keep, jnp.where(newton, h, followed) * near, followed)
        # A step size is a choice, not a function to differentiate: `Unrolled` would meet the
        # infinite slope of the root wherever a step made no error at all.
        h, followed = jax.lax.stop_gradient(
            (jnp.minimum(h, NEWTON_STEP_SIZE), jnp.minimum(followed, NEWTON_STEP_SIZE))
        )
        return keep, h, followed
