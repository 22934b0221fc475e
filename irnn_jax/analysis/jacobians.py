"""The paper's closed forms for the derivatives of the output (eqs. 4-6, appendix B).

Not used for training, where a vector-Jacobian product costs one solve. They are here to be read
beside the paper, to check that product, and for analyses that want every derivative at once.

Every derivative is a sensitivity times an activity. With P_l the derivative of the output with
respect to the total input of layer l,

    (J_W)_ijm = (P_l)_ij Y_m,    (J_Q)_ijm = (P_l)_ij X_m,    (J_T)_ij = (P_l)_ij,

which is the paper's delta_Y, delta_X and the identity contracted with what stands before them.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from irnn_jax.activations import ActivationLike, accurate_slope, as_activation
from irnn_jax.equilibrium import equilibrium
from irnn_jax.linalg.dense import matmul
from irnn_jax.networks.cell_network import as_dense
from irnn_jax.networks.dense import (
    Layer,
    Network,
    NetworkLike,
    connections,
    drive,
    split_layers,
)
from irnn_jax.networks.wiring import Connection, map_connections
from irnn_jax.solvers import Auto, Solver

Sensitivities = tuple[Float[Array, "outputs _"], ...]
Slopes = tuple[Float[Array, " _"], ...]


def jacobians(
    net: NetworkLike,
    x: ArrayLike,
    *,
    solver: Solver = Auto(),
    activation: ActivationLike = jax.nn.sigmoid,
) -> Network:
    """Derivatives of the output activities with respect to every weight, at one equilibrium.

    Args:
        net: a network of any number of layers; one and two use the paper's formulas as printed.
        x: one input, (inputs,); use `jax.vmap` for a batch.
        solver: how to reach the equilibrium.
        activation: f, smooth and elementwise, or one for each layer.

    Returns:
        A pytree like `net`; each leaf has shape (outputs, *leaf.shape). NaN where no equilibrium
        was reached, since there is no derivative then. For a parametrised network: with respect
        to the weights that it stands for, like `net.network()`.

    Raises:
        ValueError: x is not a single input, or does not fit the network.
    """
    plain = as_dense(net, "jacobians")
    if jnp.ndim(x) != 1:
        raise ValueError(f"jacobians takes one input (inputs,), got shape {jnp.shape(x)}")
    result = equilibrium(plain, x, solver=solver, activation=activation)
    activities = result.activities
    dtype = activities[-1].dtype
    x = jnp.asarray(x, dtype)
    state = jnp.concatenate(activities)
    matrix = connections(plain, dtype)
    f = as_activation(activation, plain.sizes[1:])
    slope = accurate_slope(f, matmul(matrix, state) + drive(plain, x[None])[0])
    slopes = split_layers(plain, slope)
    sensitivities = {1: one_layer, 2: two_layers}.get(len(plain.layers), many_layers)(plain, slopes)
    exists = tuple(jnp.where(result.converged, p, jnp.nan) for p in sensitivities)
    return _outer_products(plain, exists, (x, *activities))


def one_layer(net: Network, slopes: Slopes) -> Sensitivities:
    """P = (1 - f' W)^-1 f' (eqs. 4-6)."""
    (f1,) = slopes
    W = _lateral(net.layers[0])
    return (jnp.linalg.solve(_identity(f1) - f1[:, None] * W, jnp.diag(f1)),)


def two_layers(net: Network, slopes: Slopes) -> Sensitivities:
    """P_l1 = S f'_l1 and P_l2 = S f'_l1 Q_l1 (1 - f'_l2 W_l2)^-1 f'_l2 (appendix B).

    With S = (1 - f'_l1 W_l1 - f'_l1 Q_l1 (1 - f'_l2 W_l2)^-1 f'_l2 R)^-1. The paper counts layers
    from the output: l1 is the output layer, l2 the hidden one.
    """
    layer2, layer1 = net.layers
    f2, f1 = slopes
    W1, W2, Q1 = _lateral(layer1), _lateral(layer2), layer1.feedforward
    feedback = net.feedback[0] if net.feedback else None
    R = jnp.zeros((len(f2), len(f1)), f1.dtype) if feedback is None else feedback
    # (1 - f'_l2 W_l2)^-1 f'_l2: the hidden layer's own response to its total input.
    hidden = jnp.linalg.solve(_identity(f2) - f2[:, None] * W2, jnp.diag(f2))
    through_hidden = f1[:, None] * matmul(Q1, hidden)
    inverse_S = _identity(f1) - f1[:, None] * W1 - matmul(through_hidden, R)
    return jnp.linalg.solve(inverse_S, through_hidden), jnp.linalg.solve(inverse_S, jnp.diag(f1))


def many_layers(net: Network, slopes: Slopes) -> Sensitivities:
    """The output's rows of (1 - D A)^-1 D, for any number of layers."""
    slope = jnp.concatenate(slopes)
    matrix = connections(net, slope.dtype)
    outputs = slopes[-1].size
    # Rows of an inverse are columns of the transposed system's: one solve for `outputs` of them.
    last = jnp.eye(slope.size, dtype=slope.dtype)[:, -outputs:]
    rows = jnp.linalg.solve((_identity(slope) - slope[:, None] * matrix).T, last).T
    return split_layers(net, rows * slope)


def _outer_products(
    net: Network, sensitivities: Sensitivities, activities: tuple[Float[Array, " _"], ...]
) -> Network:
    """J_ijm = P_ij Y_m for every weight; `activities` begin with the input."""

    def derivative(connection: Connection, weights: Array) -> Array:
        del weights
        return sensitivities[connection.target - 1][:, :, None] * activities[connection.source]

    derivatives = map_connections(derivative, net)
    pairs = zip(derivatives.layers, sensitivities, strict=True)
    return derivatives._replace(layers=tuple(layer._replace(bias=own) for layer, own in pairs))


def _lateral(layer: Layer) -> Array:
    if layer.lateral is None:
        return jnp.zeros((layer.bias.size, layer.bias.size), layer.bias.dtype)
    return layer.lateral


def _identity(slope: Array) -> Array:
    return jnp.eye(slope.size, dtype=slope.dtype)
