"""The equilibrium of a network, its activities and what is known about them."""

import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from irnn_jax.activations import Activation, check_elementwise
from irnn_jax.forward_mode import forward_mode_explained
from irnn_jax.gradients import Exact, Gradient
from irnn_jax.implicit import AdjointReport, DenseMethod, dense_equilibrium
from irnn_jax.linear import matmul
from irnn_jax.max_norm import max_norm
from irnn_jax.network import (
    Network,
    NetworkLike,
    as_network,
    check_network,
    checked_input,
    connections,
    drive,
    split_layers,
)
from irnn_jax.solvers import Auto, Solver
from irnn_jax.solvers.base import check_tolerance
from irnn_jax.solving import Solution
from irnn_jax.status import Status

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
    """

    activities: Any
    residual: Float[Array, "*batch"]
    num_steps: Int[Array, "*batch"]
    converged: Bool[Array, "*batch"]
    status: Int[Array, "*batch"]


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


def equilibrium(
    net: NetworkLike,
    x: ArrayLike,
    *,
    solver: Solver = Auto(),
    gradient: Gradient = Exact(),
    activation: Activation = jax.nn.sigmoid,
    check_stability: bool = False,
    tolerance: ArrayLike | None = None,
    throw: bool = False,
    probe: AdjointReport | None = None,
) -> Equilibrium:
    """The equilibrium Y = f(A Y + b(x)) that the flow from Y = 0 reaches (eqs. 3, 7, 8).

    A sample that does not converge is flagged, keeps its last iterate and has a gradient of zero:
    NaN or Inf in one sample changes nothing for the others. A network without recurrent weights
    is evaluated layer by layer, with `solver` and `gradient` unused: both are exact there.

    Args:
        net: the network, from `init` or built by hand, or one with a parametrisation.
        x: (..., inputs), any number of leading axes.
        solver: how to reach the equilibrium; static under jit.
        gradient: how to differentiate it; static under jit.
        activation: f, smooth and elementwise, for instance `jnp.tanh`; static under jit.
        check_stability: also ask whether the flow stays at each equilibrium; one that it would
            leave counts as not converged. It, and what does not converge, is solved once more,
            closer to the flow, before it is given up. Costs eigenvalues where no norm of D A is
            below one.
        tolerance: largest residual that counts as converged, in place of the solver's; may be
            traced, so that runs under `jax.vmap` can each have their own.
        throw: raise (at run time) if a sample, or its adjoint, does not converge.
        probe: see `adjoint_probe`, of shape (...).

    Raises:
        ValueError: x or the network has the wrong shape or dtype, f is not elementwise, or the
            tolerance is not one positive number.
        TypeError: under forward-mode differentiation.
        RuntimeError: `throw`, and an equilibrium was not reached.
    """
    net = as_network(net)
    check_network(net)
    x = checked_input(net, x)
    check_elementwise(activation)
    check_tolerance(tolerance)
    method = DenseMethod(
        solver=solver,
        gradient=gradient,
        throw=throw,
        activation=activation,
        sizes=net.sizes[1:],
        check_stability=check_stability,
    )
    if probe is None:
        probe = adjoint_probe(x.shape[:-1], jnp.result_type(x, *jax.tree.leaves(net)))
    with forward_mode_explained():
        return _equilibrium(method, net, x, probe, tolerance)


def apply(
    net: NetworkLike,
    x: ArrayLike,
    *,
    solver: Solver = Auto(),
    gradient: Gradient = Exact(),
    activation: Activation = jax.nn.sigmoid,
    check_stability: bool = False,
    tolerance: ArrayLike | None = None,
    throw: bool = False,
    probe: AdjointReport | None = None,
) -> Float[Array, "*batch outputs"]:
    """The output layer's activities at equilibrium: x (..., inputs) -> (..., outputs).

    See `equilibrium` for the arguments, and for how to tell whether a sample converged.
    """
    result = equilibrium(
        net,
        x,
        solver=solver,
        gradient=gradient,
        activation=activation,
        check_stability=check_stability,
        tolerance=tolerance,
        throw=throw,
        probe=probe,
    )
    return result.activities[-1]


@functools.partial(jax.jit, static_argnames="method")
def _equilibrium(
    method: DenseMethod,
    net: Network,
    x: Float[Array, "*batch inputs"],
    probe: AdjointReport,
    tolerance: Float[Array, ""] | None,
) -> Equilibrium:
    batch_shape = x.shape[:-1]
    dtype = jnp.result_type(x, *jax.tree.leaves(net))
    x = x.reshape(-1, x.shape[-1]).astype(dtype)
    # dL/dQ sums u x^T over the batch: a bad x times a masked u of zero would still be NaN.
    finite = max_norm(x, axis=-1, keepdims=True) < jnp.inf
    x = jnp.where(finite, x, 0)
    if net.is_recurrent:
        matrix = connections(net, dtype)
        b = jnp.where(finite, drive(net, x), jnp.nan)
        probe = jax.tree.map(lambda leaf: leaf.reshape(-1).astype(dtype), probe)
        if tolerance is not None:
            tolerance = jnp.asarray(tolerance, dtype)
        solution = dense_equilibrium(method, matrix, b, tolerance, probe)
        activities = split_layers(net, solution.state)
    else:
        activities, solution = _feed_forward(net, x, finite[:, 0], method.activation)
    flat = as_equilibrium(solution, activities, throw=method.throw)
    return jax.tree.map(lambda leaf: leaf.reshape(batch_shape + leaf.shape[1:]), flat)


def as_equilibrium(solution: Solution, activities: Any, *, throw: bool) -> Equilibrium:
    """The public record of a solution, whose `activities` alone carry gradients."""
    if throw:
        failed = ~jax.lax.stop_gradient(solution.converged)
        activities = eqx.error_if(activities, failed, NOT_CONVERGED)
    return Equilibrium(
        activities=activities,
        residual=jax.lax.stop_gradient(solution.residual),
        num_steps=solution.num_steps,
        converged=solution.converged,
        status=solution.status,
    )


def _feed_forward(
    net: Network, x: Float[Array, "batch inputs"], finite: Bool[Array, " batch"], f: Activation
) -> tuple[tuple[Array, ...], Solution]:
    activities: list[Array] = []
    below = x
    for layer in net.layers:
        dtype = x.dtype
        below = f(matmul(below, layer.feedforward.astype(dtype).T) + layer.bias.astype(dtype))
        activities.append(below)
    state = jnp.concatenate(activities, axis=-1)
    converged = finite & jnp.all(jnp.isfinite(state), axis=-1)
    return tuple(activities), Solution(
        state=state,
        # One pass is the equilibrium itself: f(A Y + b) repeats the same arithmetic.
        residual=jnp.where(converged, 0, jnp.inf).astype(x.dtype),
        num_steps=jnp.zeros(len(x), jnp.int32),
        status=jnp.where(converged, Status.CONVERGED, Status.NON_FINITE).astype(jnp.int32),
    )
