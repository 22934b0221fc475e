"""The one derivative rule of an equilibrium, for every kind of problem (eqs. 4-6, appendix B).

    Y* = g(Y*; theta),    w = (I - J^T)^-1 dL/dY,    dL/dtheta = (dg/dtheta)^T w.

The equilibrium is found without being differentiated. Then g is evaluated there once more, with all
its derivatives, and the rule puts w in place of the cotangent of that: what is left is JAX's own
derivative of g.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from irnn_jax.gradients import Adjoint, Gradient
from irnn_jax.gradients.forward_mode import reverse_mode_only
from irnn_jax.problem import Problem, State
from irnn_jax.solvers import Solved, Solver
from irnn_jax.solvers.base import tolerance_of
from irnn_jax.status import Status, judge
from irnn_jax.xla.promotion import with_default_promotion
from irnn_jax.xla.trace import compiled_by_method
from irnn_jax.xla.varying import vary, varying_axes

ADJOINT_FAILED = "the adjoint solve of an equilibrium did not converge"


@runtime_checkable
class Kind(Protocol):
    """What is static about a problem; hashable. A new kind is a file in `irnn_jax/networks/`."""

    def problem(self, inputs: Any) -> Problem:
        """The problem with these numbers, a pytree."""
        ...

    def lay_out(self, solve: Callable[..., Any]) -> Callable[..., Any]:
        """`(inputs, y0) -> solve(kind, inputs, y0)`, as it is fastest, also under `jax.vmap`."""
        ...

    def without_failed(self, inputs: Any, y: State, usable: Array) -> tuple[Any, State]:
        """With something that is a number in place of what failed samples have."""
        ...

    def value(self, inputs: Any, y: State) -> State:
        """g(Y), to be differentiated: with slopes to full precision."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """Everything about a solve that is static under jit.

    Attributes:
        checked: what else is asked of a solution, `(method, problem, y0, solved) -> solved`.
    """

    kind: Kind
    solver: Solver
    gradient: Gradient
    throw: bool = False
    checked: Callable[["Method", Problem, State, Solved], Solved] | None = None

    def __post_init__(self):
        # A class has the methods too: `solver=Picard`, without parentheses, is a likely slip.
        if not isinstance(self.solver, Solver) or isinstance(self.solver, type):
            raise ValueError(f"solver must be one of the solvers, got {self.solver!r}")
        if not isinstance(self.gradient, Gradient) or isinstance(self.gradient, type):
            raise ValueError(f"gradient must be one of the gradients, got {self.gradient!r}")


class AdjointReport(NamedTuple):
    """What the backward pass knows, handed out as the cotangent of a probe.

    A backward rule cannot return values, but it can return cotangents: pass zeros of this type as
    `probe=`, differentiate with respect to them too, and the "gradient" is the report.

    Attributes:
        residual: relative residual of each sample's adjoint, 0 for one that was not attempted.
        failed: 1.0 where the adjoint did not converge and the sample was left out, else 0.0.
    """

    residual: Float[Array, "*batch"]
    failed: Float[Array, "*batch"]


def converged(solved: Solved) -> Bool[Array, "*numbers"]:
    """Which samples may be used."""
    return solved.status == Status.CONVERGED


def solve_implicitly(method: Method, inputs: Any, y0: State, probe: AdjointReport) -> Solved:
    """The equilibria of a batch from y0, differentiable in `inputs`; the probe has one a sample."""
    # Inside of `jax.shard_map` a sum over the devices belongs to weights that all of them share:
    # JAX makes it of what follows.
    inputs, y0, probe = vary((inputs, y0, probe), varying_axes((inputs, y0)))
    inputs = reverse_mode_only(inputs)
    if not method.gradient.loop().skips:
        # JAX differentiates the loop itself: no gradient from a failed sample.
        solved = _solve(method, inputs, y0)
        state = jnp.where(converged(solved), solved.state, jax.lax.stop_gradient(solved.state))
        return solved._replace(state=state)
    # The equilibrium does not depend on where the search for it began, nor on how.
    solved = _solve(method, *jax.lax.stop_gradient((inputs, y0)))
    usable = converged(solved)
    used, y = method.kind.without_failed(inputs, solved.state, usable)
    value = method.kind.value(used, y)
    state = _with_adjoint(method, value, used, y, usable, probe)
    return solved._replace(state=jnp.where(usable, state, solved.state))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _with_adjoint(
    method: Method,
    value: State,
    inputs: Any,
    y: State,
    usable: Bool[Array, "*numbers"],
    probe: AdjointReport,
) -> State:
    """Y, whose cotangent becomes w = (I - J^T)^-1 dL/dY, that of `value` = g(Y)."""
    del method, value, inputs, usable, probe
    return y


def _forward(method: Method, value: State, inputs: Any, y: State, usable: Array, probe: Any):
    # By the rule itself: so that the backward rule, which depends on Y, can be differentiated too.
    state: State = _with_adjoint(method, value, inputs, y, usable, probe)
    return state, (inputs, state, usable)


@with_default_promotion
def _backward(method: Method, saved: Any, cotangent: State):
    inputs, y, usable = saved
    linear = method.kind.problem(inputs).linearise(y)
    adjoint: Adjoint = method.gradient.adjoint(linear, jnp.where(usable, cotangent, 0))
    # A sample without an equilibrium has no gradient to be wrong about.
    failed = usable & ~adjoint.converged
    w = jnp.where(usable & adjoint.converged, adjoint.state, 0)
    if method.throw:
        w = eqx.error_if(w, failed, ADJOINT_FAILED)
    report = AdjointReport(
        residual=jax.lax.stop_gradient(jnp.where(usable, adjoint.residual, 0)).reshape(-1),
        failed=failed.astype(w.dtype).reshape(-1),
    )
    # The inputs and Y count by what is made of them here; that has no value, but derivatives.
    return w, None, None, None, report


_with_adjoint.defvjp(_forward, _backward)


@compiled_by_method
@with_default_promotion
def _solve(method: Method, inputs: Any, y0: State) -> Solved:
    """Run the solver, and judge where each sample stopped, for all solvers alike."""

    def solve(kind: Kind, inputs: Any, y0: State) -> Solved:
        problem = kind.problem(inputs)
        solved = judged(method, problem, method.solver.solve(problem, y0, method.gradient.loop()))
        if method.checked is not None:
            solved = method.checked(method, problem, y0, solved)
        return solved

    return method.kind.lay_out(solve)(inputs, y0)


def judged(method: Method, problem: Problem, solved: Solved) -> Solved:
    """With the status of each sample."""
    # A NaN is not comparable; what a caller can act on is "infinitely far from equilibrium".
    residual = jnp.where(jnp.isnan(solved.residual), jnp.inf, solved.residual)
    tolerance = tolerance_of(method.solver, problem, solved.state.dtype)
    status = judge(residual, solved.time, tolerance)
    return solved._replace(residual=residual, status=status)
