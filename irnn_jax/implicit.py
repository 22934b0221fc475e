"""The one derivative rule of an equilibrium, for every kind of problem (eqs. 4-6, appendix B).

    Y* = g(Y*; theta),    w = (I - J^T)^-1 dL/dY,    dL/dtheta = (dg/dtheta)^T w.

Its forward rule calls the rule's own function, never the bare loop, so that the backward rule is
itself differentiable in reverse mode and second derivatives are exact.

With `Exact(forward_mode=True)` the same rule is written as its tangent,

    dY = (I - J)^-1 (dg/dtheta) dtheta,

which JAX transposes for reverse mode.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, get_args, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from irnn_jax.gradients import Adjoint, Exact, Gradient
from irnn_jax.gradients.both_ways import solve_both_ways, transposed
from irnn_jax.gradients.forward_mode import reverse_mode_only
from irnn_jax.problem import Problem, State
from irnn_jax.solvers import Solved, Solver
from irnn_jax.solvers.judge import converged
from irnn_jax.solvers.trusted import solve_trusted
from irnn_jax.xla.promotion import with_default_promotion
from irnn_jax.xla.trace import trace_once
from irnn_jax.xla.varying import vary, varying_axes
from irnn_jax.xla.warn import warn_where

ADJOINT_FAILED = "the adjoint solve of an equilibrium did not converge"
LEFT_OUT = (
    "irnn_jax: {count} sample(s) left out of a gradient, since "
    + ADJOINT_FAILED
    + " (pass probe= to see which, or adjoint_failure='zero', 'nan')"
)
TANGENT_FAILED = "a linear solve for a derivative of an equilibrium did not converge"
LEFT_OUT_OF_EITHER = (
    "irnn_jax: {count} sample(s) left out of a derivative, since "
    + TANGENT_FAILED
    + " (there is adjoint_failure='zero', 'nan')"
)
AdjointFailure = Literal["warn", "zero", "nan"]


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

    def cotangents(self, inputs: Any, y: State, w: State, usable: Array) -> Any:
        """(dg/d inputs)^T w, like `inputs`."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """Everything about a solve that is static under jit.

    Attributes:
        stable: whether an equilibrium that the flow would leave counts as not converged.
        adjoint_failure: what becomes of a sample's gradient that cannot be had: zero, with a
            warning or without, or NaN.
    """

    kind: Kind
    solver: Solver
    gradient: Gradient
    throw: bool = False
    stable: bool = True
    adjoint_failure: AdjointFailure = "warn"

    def __post_init__(self):
        # A class has the methods too: `solver=Picard`, without parentheses, is a likely slip.
        if not isinstance(self.solver, Solver) or isinstance(self.solver, type):
            raise ValueError(f"solver must be one of the solvers, got {self.solver!r}")
        if not isinstance(self.gradient, Gradient) or isinstance(self.gradient, type):
            raise ValueError(f"gradient must be one of the gradients, got {self.gradient!r}")
        if self.adjoint_failure not in get_args(AdjointFailure):
            raise ValueError(
                f"adjoint_failure must be 'warn', 'zero' or 'nan', got {self.adjoint_failure!r}"
            )


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


def asked_for(failure: AdjointFailure, probe: AdjointReport | None) -> AdjointFailure:
    """Whoever asks for a report by a probe needs no warning."""
    return "zero" if failure == "warn" and probe is not None else failure


def goes_forward(gradient: Gradient) -> bool:
    """Whether forward mode is asked for."""
    return isinstance(gradient, Exact) and gradient.forward_mode


def check_probe(gradient: Gradient, probe: AdjointReport | None) -> None:
    """Raise a ValueError where a probe would have nothing to report."""
    if probe is not None and goes_forward(gradient):
        raise ValueError(
            "a probe is reported to by a reverse-mode rule alone, but got probe= together with "
            f"gradient={gradient!r}; leave one of the two out"
        )


def solve_implicitly(method: Method, inputs: Any, y0: State, probe: AdjointReport) -> Solved:
    """The equilibria of a batch from y0, differentiable in `inputs`; the probe has one a sample."""
    kind: Any = method.kind
    if getattr(kind, "joins", False) and not method.gradient.loop().skips:
        # No reverse mode goes through a rule for `jax.vmap`.
        method = dataclasses.replace(method, kind=dataclasses.replace(kind, joins=False))
    # Inside of `jax.shard_map` a sum over the devices belongs to weights that all of them share:
    # JAX makes it of what follows.
    inputs, y0, probe = vary((inputs, y0, probe), varying_axes((inputs, y0)))
    if goes_forward(method.gradient):
        found: Any = _rule_both_ways(method, inputs, y0)
        return found
    inputs = reverse_mode_only(inputs)
    if method.gradient.loop().skips:
        solved: Any = _rule(method, inputs, y0, probe)
        return solved
    # JAX differentiates the loop itself: no gradient from a failed sample.
    solved = _solve(method, inputs, y0)
    state = jnp.where(converged(solved), solved.state, jax.lax.stop_gradient(solved.state))
    return solved._replace(state=state)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _rule(method: Method, inputs: Any, y0: State, probe: AdjointReport) -> Solved:
    del probe
    return _solve(method, inputs, y0)


def _forward(method: Method, inputs: Any, y0: State, probe: AdjointReport):
    solved: Any = _rule(method, inputs, y0, probe)
    return solved, (inputs, solved.state, converged(solved))


@with_default_promotion
def _backward(method: Method, saved: Any, cotangents: Solved):
    inputs, y, usable = saved
    # The cotangents of residual, num_steps and status are dropped on purpose: diagnostics.
    cotangent = jnp.where(usable, cotangents.state, 0)
    inputs_used, y_used = method.kind.without_failed(inputs, y, usable)
    linear = method.kind.problem(inputs_used).timeless.linearise(y_used)
    adjoint: Adjoint = method.gradient.adjoint(linear, cotangent)
    w, failed = _usable_solution(method, adjoint, usable, ADJOINT_FAILED, LEFT_OUT)
    report = AdjointReport(
        residual=jax.lax.stop_gradient(jnp.where(usable, adjoint.residual, 0)).reshape(-1),
        failed=failed.astype(w.dtype).reshape(-1),
    )
    # The equilibrium does not depend on where the search for it began.
    return method.kind.cotangents(inputs, y, w, usable), jnp.zeros_like(y), report


_rule.defvjp(_forward, _backward)


def _usable_solution(
    method: Method, adjoint: Adjoint, usable: Array, error: str, warning: str
) -> tuple[State, Array]:
    """What was solved, as far as it may be used, and which samples' solves failed."""
    # A sample without an equilibrium has no gradient to be wrong about.
    failed = usable & ~adjoint.converged
    w = jnp.where(usable & adjoint.converged, adjoint.state, 0)
    if method.throw:
        w = eqx.error_if(w, failed, error)
    elif method.adjoint_failure == "nan":
        w = jnp.where(failed, jnp.nan, w)
    elif method.adjoint_failure == "warn":
        warn_where(jax.lax.stop_gradient(failed), warning)
    return w, failed


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _rule_both_ways(method: Method, inputs: Any, y0: State) -> Solved:
    return _solve(method, inputs, y0)


@_rule_both_ways.defjvp
@with_default_promotion
def _tangent(method: Method, primals: Any, tangents: Any) -> tuple[Solved, Solved]:
    kind, gradient, (inputs, y0) = method.kind, method.gradient, primals
    assert isinstance(gradient, Exact)
    # The rule's own function, so that the derivatives of what follows have those of Y.
    solved: Any = _rule_both_ways(method, inputs, y0)
    y, usable = solved.state, converged(solved)
    inputs_used, y_used = kind.without_failed(inputs, y, usable)
    linear = kind.problem(inputs_used).linearise(y_used)
    # The equilibrium does not depend on where the search for it began.
    rhs = transposed(lambda w: kind.cotangents(inputs, y, w, usable), y, tangents[0])

    def solve(rhs: State, transposed: bool) -> State:
        found = gradient.solve_system(linear, jnp.where(usable, rhs, 0), transposed=transposed)
        return _usable_solution(method, found, usable, TANGENT_FAILED, LEFT_OUT_OF_EITHER)[0]

    # The others are diagnostics.
    none = jax.tree.map(jax.custom_derivatives.zero_from_primal, solved)
    return solved, none._replace(state=solve_both_ways(linear, rhs, solve))


@trace_once
@with_default_promotion
def _solve(method: Method, inputs: Any, y0: State) -> Solved:
    """Run the solver, and judge where each sample stopped, for all solvers alike."""

    def solve(kind: Any, inputs: Any, y0: State) -> Solved:
        problem, loop = kind.problem(inputs).begun(y0), method.gradient.loop()
        return solve_trusted(method.solver, problem, y0, loop, stable=method.stable)

    return method.kind.lay_out(solve)(inputs, y0)
