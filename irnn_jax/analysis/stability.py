"""Whether an equilibrium attracts the flow: the spectrum of its linearisation."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from irnn_jax.activations import ActivationLike, accurate_slope, along, as_activation
from irnn_jax.equilibrium import equilibrium
from irnn_jax.linalg.arnoldi import rightmost
from irnn_jax.linalg.dense import matmul
from irnn_jax.linalg.layout import SAMPLES_FIRST
from irnn_jax.linalg.spectrum import spectral_abscissa
from irnn_jax.networks.cell_network import Activities, CellNetwork, functions_of
from irnn_jax.networks.cell_problem import StateShape
from irnn_jax.networks.dense import (
    Network,
    NetworkLike,
    as_network,
    checked_input,
    connections,
    drive,
)
from irnn_jax.networks.time_constants import (
    TimeConstants,
    rates_of_layers,
    rates_of_state,
)
from irnn_jax.solvers import Auto, Solver


class Stability(NamedTuple):
    """How the flow behaves next to each sample's equilibrium.

    Attributes:
        abscissa: spectral abscissa of D A, the largest real part of its eigenvalues, (...).
        rate: 1 - abscissa, at which the slowest disturbance decays (or grows, if negative), in
            units of the inverse time constant, (...). Zero is a fold or a Hopf bifurcation.
        is_stable: converged, and rate > 0, (...).
    """

    abscissa: Float[Array, "*batch"]
    rate: Float[Array, "*batch"]
    is_stable: Bool[Array, "*batch"]


def stability(
    net: NetworkLike,
    x: ArrayLike,
    *,
    solver: Solver = Auto(),
    activation: ActivationLike = jax.nn.sigmoid,
    time_constants: TimeConstants | None = None,
) -> Stability:
    """Spectral abscissa, slowest rate and stability of the equilibria of a batch.

    Next to an equilibrium the flow dY/dt = f(A Y + b) - Y is d(dY)/dt = (D A - I) dY. Where the
    solver did not converge, abscissa and rate are those of its last iterate and `is_stable` is
    false. Costs an eigenvalue problem for each sample; JAX has it on CPU and recent GPUs. Of a
    convolutional network the abscissa is an estimate, by Arnoldi's method on products.

    Args:
        net: the network.
        x: (..., inputs), any number of leading axes.
        solver: how to reach the equilibrium.
        activation: f, smooth and elementwise, or one for each layer.
        time_constants: of the layers, as for `irnn_jax.equilibrium`. With r = min(tau)/tau the
            spectrum is that of I + r (D A - I), and `rate` in units of 1/min(tau).

    Raises:
        ValueError: as for `irnn_jax.equilibrium`.
    """
    plain: Any = as_network(net)
    result = equilibrium(
        plain, x, solver=solver, activation=activation, time_constants=time_constants
    )
    activities = jax.lax.stop_gradient(result.activities)
    if isinstance(plain, CellNetwork):
        abscissa = _by_products(plain, x, activities, activation, time_constants)
    else:
        abscissa = _by_matrix(plain, x, activities, activation, time_constants)
    rate = 1 - abscissa
    return Stability(abscissa=abscissa, rate=rate, is_stable=result.converged & (rate > 0))


def slope_at(
    net: Network, x: ArrayLike, state: Float[Array, "*batch n"], activation: ActivationLike
) -> Float[Array, "*batch n"]:
    """The diagonal of D: f' at A Y + b(x), for the stacked activities Y of a batch."""
    x = checked_input(net, x).astype(state.dtype)
    b = drive(net, x.reshape(-1, x.shape[-1])).reshape(state.shape)
    f = along(as_activation(activation, net.sizes[1:]), -1)
    return accurate_slope(f, matmul(state, connections(net, state.dtype).T) + b)


def _by_matrix(
    net: Network,
    x: ArrayLike,
    activities: Activities,
    activation: ActivationLike,
    time_constants: TimeConstants | None,
) -> Float[Array, "*batch"]:
    """The abscissa, by eigenvalues."""
    state = jnp.concatenate(activities, axis=-1)
    matrix = connections(net, state.dtype)
    jacobian = slope_at(net, x, state, activation)[..., None] * matrix
    r = rates_of_layers(time_constants, net.sizes[1:])
    if r is not None:
        identity = jnp.eye(len(matrix), dtype=state.dtype)
        jacobian = identity + r.astype(state.dtype)[:, None] * (jacobian - identity)
    return spectral_abscissa(jacobian)


def _by_products(
    net: CellNetwork,
    x: ArrayLike,
    activities: Activities,
    activation: ActivationLike,
    time_constants: TimeConstants | None,
) -> Float[Array, "*batch"]:
    """The abscissa, from a start of random signs."""
    batch, state, drive = net.flattened(activities, net.checked_input(x))
    functions = functions_of(activation, len(state))
    shape = StateShape.of(state, batch_axes=1)
    flat = shape.flatten(state, drive.shape[:1])

    rate = rates_of_state(time_constants, state, shape, drive.shape[:1])

    def step(y: Array) -> Array:
        g = shape.flatten(net.step(shape.unflatten(y), drive, functions), drive.shape[:1])
        return g if rate is None else y + rate * (g - y)

    _, product = jax.linearize(step, flat)
    signs = jax.random.rademacher(jax.random.key(0), flat.shape[1:], flat.dtype)
    start = jnp.broadcast_to(signs, flat.shape)
    return rightmost(product, start, SAMPLES_FIRST).reshape(batch)
