"""How a solve ended, sample by sample, and in words."""

import enum
import sys
from typing import TYPE_CHECKING, TextIO

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

if TYPE_CHECKING:
    from irnn_jax.equilibrium.record import Equilibrium

# A sample that moved for so many time constants, and still moves so fast, is going in circles.
CYCLE_TIME, CYCLE_SPEED = 20.0, 1e-3


class Status(enum.IntEnum):
    """How the solve of one sample ended; `Equilibrium.status` holds these numbers.

    Attributes:
        CONVERGED: residual <= tolerance relative to the state, and the flow stays there.
        MAX_STEPS: the solver took all its steps.
        UNSTABLE: at rest, but the flow would leave it.
        LIMIT_CYCLE: suspected: the flow was followed for 20 time constants with error control, and
            max|dY/dt| is still above 1e-3.
        NON_FINITE: the input, a weight or the state is not finite.
        SENSITIVE: at rest, but so small a disturbance on the way leads elsewhere that rounding may
            have decided.
    """

    CONVERGED = 0
    MAX_STEPS = 1
    UNSTABLE = 2
    LIMIT_CYCLE = 3
    NON_FINITE = 4
    SENSITIVE = 5


IN_WORDS = {
    Status.CONVERGED: "converged",
    Status.MAX_STEPS: "not converged in max_steps",
    Status.UNSTABLE: "at an unstable equilibrium",
    Status.LIMIT_CYCLE: "probably in a limit cycle",
    Status.NON_FINITE: "not finite",
    Status.SENSITIVE: "too sensitive to rounding",
}


def judge(
    residual: Float[Array, "*batch"],
    time: Float[Array, "*batch"] | float,
    tolerance: float | Float[Array, "*batch"],
) -> Int[Array, "*batch"]:
    """The status of each sample, inf or NaN the residual of a state that is not finite.

    `time` is how long the flow was followed, 0 if unknown.
    """
    cycling = (time >= CYCLE_TIME) & (residual > CYCLE_SPEED)
    failed = jnp.where(cycling, Status.LIMIT_CYCLE, Status.MAX_STEPS)
    known = jnp.where(residual <= tolerance, Status.CONVERGED, failed)
    return jnp.where(jnp.isfinite(residual), known, Status.NON_FINITE).astype(jnp.int32)


def describe(equilibrium: "Equilibrium", file: TextIO | None = None) -> None:
    """Print a short summary of a batch of equilibria.

    ```
    72 samples: 70 converged, 2 probably in a limit cycle
    steps: mean 7.9, max 200; largest residual: converged 2.2e-16, others 0.38 at [3, 1]
    ```

    Args:
        equilibrium: from `irnn_jax.equilibrium` or `irnn_jax.fixed_point`, any batch.
        file: where to print; None: standard output.
    """
    print("\n".join(_lines(equilibrium)), file=sys.stdout if file is None else file)


def _lines(equilibrium: "Equilibrium") -> list[str]:
    status = np.asarray(equilibrium.status)
    if status.size == 0:
        return ["no samples"]
    counts = {code: int(np.sum(status == code)) for code in Status}
    parts = [f"{count} {IN_WORDS[code]}" for code, count in counts.items() if count]
    samples = "1 sample" if status.size == 1 else f"{status.size} samples"
    steps, residual = np.asarray(equilibrium.num_steps), np.asarray(equilibrium.residual)
    converged = status == Status.CONVERGED
    largest = []
    if np.any(converged):
        largest.append(f"converged {np.max(residual[converged]):.2g}")
    if not np.all(converged):
        others = np.where(converged, -np.inf, residual)
        worst = np.unravel_index(np.argmax(others), others.shape)
        where = f" at {[int(i) for i in worst]}" if others.ndim else ""
        largest.append(f"others {others[worst]:.2g}{where}")
    return [
        f"{samples}: {', '.join(parts)}",
        f"steps: mean {np.mean(steps):.1f}, max {np.max(steps)}; "
        f"largest residual: {', '.join(largest)}",
    ]
