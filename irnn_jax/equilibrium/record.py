"""What is known of an equilibrium, for every kind of network and cell."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from irnn_jax.implicit import AdjointReport
from irnn_jax.solvers import Solved
from irnn_jax.solvers.judge import converged
from irnn_jax.status import Status
from irnn_jax.xla.samples import are_finite

NOT_CONVERGED = "no equilibrium was reached for at least one sample; see Equilibrium.converged"


class Equilibrium(NamedTuple):
    """Where a network or a cell came to rest. Only `activities` carries gradients.

    Attributes:
        activities: for a network a tuple with one (..., size) array a layer, from the first hidden
            layer to the output; for `fixed_point` the state pytree. The last iterate where the
            solve failed.
        residual: max|f(A Y + b) - Y| of each sample, (...); inf where it is not a number.
        num_steps: solver steps of each sample, (...), rejected ones included.
        converged: residual <= tolerance and the state finite, for each sample, (...).
        status: how each sample's solve ended, a number of `irnn_jax.Status`, (...).
        sensitivity: how much a small disturbance has grown on the way there, (...), as far as the
            solver knows; at least 1. Beside a tie it is large.
    """

    activities: Any
    residual: Float[Array, "*batch"]
    num_steps: Int[Array, "*batch"]
    converged: Bool[Array, "*batch"]
    status: Int[Array, "*batch"]
    sensitivity: Float[Array, "*batch"]


def adjoint_probe(batch_shape: tuple[int, ...] = (), dtype: Any = None) -> AdjointReport:
    """Zeros to pass as `probe=`, so that the backward pass can report on its adjoint solves.

    ```python
    def loss(net, probe):
        return irnn.apply(net, x, probe=probe).sum()


    gradient, report = jax.grad(loss, argnums=(0, 1))(net, irnn.adjoint_probe(x.shape[:-1]))
    ```
    """
    return AdjointReport(
        residual=jnp.zeros(batch_shape, dtype), failed=jnp.zeros(batch_shape, dtype)
    )


def as_equilibrium(solved: Solved, activities: Any, *, throw: bool) -> Equilibrium:
    """The public record of a solve, whose `activities` alone carry gradients."""
    ended = converged(solved)
    if throw:
        activities = eqx.error_if(activities, ~jax.lax.stop_gradient(ended), NOT_CONVERGED)
    assert solved.status is not None
    return Equilibrium(
        activities=activities,
        residual=jax.lax.stop_gradient(solved.residual),
        num_steps=solved.num_steps,
        converged=ended,
        status=solved.status,
        sensitivity=jax.lax.stop_gradient(solved.sensitivity),
    )


def passed(activities: Any, finite: Bool[Array, " batch"], *, throw: bool) -> Equilibrium:
    """The record of a network without recurrent weights: one pass is the equilibrium itself."""
    ended = finite & are_finite(activities, 1)
    zeros = jnp.zeros(ended.shape, jax.tree.leaves(activities)[0].dtype)
    return as_equilibrium(
        Solved(
            state=activities,
            residual=jnp.where(ended, zeros, jnp.inf),
            num_steps=zeros.astype(jnp.int32),
            time=zeros,
            finished=jnp.ones_like(ended),
            error=zeros,
            sensitivity=jnp.ones_like(zeros),
            status=jnp.where(ended, Status.CONVERGED, Status.NON_FINITE).astype(jnp.int32),
        ),
        activities,
        throw=throw,
    )
