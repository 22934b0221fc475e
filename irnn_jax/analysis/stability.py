"""Whether an equilibrium attracts the flow: the spectrum of its linearisation."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from irnn_jax.activations import ActivationLike, accurate_slope, along, as_activation
from irnn_jax.equilibrium import equilibrium
from irnn_jax.linalg.dense import matmul
from irnn_jax.linalg.spectrum import spectral_abscissa
from irnn_jax.networks.dense import (
    Network,
    NetworkLike,
    as_network,
    checked_input,
    connections,
    drive,
)
from irnn_jax.networks.time_constants import TimeConstants, rates_of_layers
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
    false. Costs an eigenvalue problem for each sample; JAX has it on CPU and recent GPUs.

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
    net = as_network(net)
    result = equilibrium(
        net, x, solver=solver, activation=activation, time_constants=time_constants
    )
    state = jax.lax.stop_gradient(jnp.concatenate(result.activities, axis=-1))
    matrix = connections(net, state.dtype)
    slope = slope_at(net, x, state, activation)
    jacobian = slope[..., None] * matrix
    r = rates_of_layers(time_constants, net.sizes[1:])
    if r is not None:
        identity = jnp.eye(len(matrix), dtype=state.dtype)
        jacobian = identity + r.astype(state.dtype)[:, None] * (jacobian - identity)
    abscissa = spectral_abscissa(jacobian)
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
