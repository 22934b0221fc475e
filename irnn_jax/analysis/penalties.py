"""How strongly the activities act on themselves at equilibrium: ||D A||_F^2 / n, to be kept small.

D A is the Jacobian of Y -> f(A Y + b). Its Frobenius norm bounds the spectral radius, so a small
one keeps the equilibrium attracting, its adjoint well conditioned and every solver fast.
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from irnn_jax.activations import ActivationLike, accurate_slope
from irnn_jax.analysis.stability import slope_at
from irnn_jax.equilibrium import equilibrium
from irnn_jax.linalg.dense import matmul
from irnn_jax.networks.cell_network import CellNetwork, functions_of
from irnn_jax.networks.dense import Network, NetworkLike, as_network, checked_input, connections
from irnn_jax.solvers import Auto, Solver
from irnn_jax.xla.samples import kept

Tree = TypeVar("Tree")


def jacobian_penalty(
    net: NetworkLike,
    x: ArrayLike,
    *,
    solver: Solver = Auto(),
    activation: ActivationLike = jax.nn.sigmoid,
) -> Float[Array, "*batch"]:
    """||D A||_F^2 / n at the equilibrium of each sample, with its exact gradient.

    D depends on the weights through the equilibrium too, and so does the gradient. To train with
    it, pass `penalty=` to `make_train_step`, which needs no second equilibrium.

    Args:
        net: the network.
        x: (..., inputs), any number of leading axes.
        solver: how to reach the equilibrium.
        activation: f, twice differentiable and elementwise, or one for each layer.

    Returns:
        (...); 0, with a gradient of zero, for a sample that did not converge.

    Raises:
        ValueError: as for `irnn_jax.equilibrium`.
    """
    plain: Any = as_network(net)
    result = equilibrium(plain, x, solver=solver, activation=activation)
    x = plain.checked_input(x) if isinstance(plain, CellNetwork) else checked_input(plain, x)
    # Replace before the square, not after: its derivative at a NaN would be NaN, masked or not.
    usable = result.converged
    squares = squared_jacobian(plain, kept(usable, x), kept(usable, result.activities), activation)
    return jnp.where(usable, squares, 0)


def squared_jacobian(
    net: Network | CellNetwork, x: Array, activities: tuple[Array, ...], activation: Any
) -> Float[Array, "*batch"]:
    """||D A||_F^2 / n at the activities of a batch, without D A itself: sums of squared rows."""
    if isinstance(net, CellNetwork):
        return _of_cell(net, x, activities, activation)
    state = jnp.concatenate(activities, axis=-1)
    rows = jnp.sum(connections(net, state.dtype) ** 2, axis=1)
    return matmul(slope_at(net, x, state, activation) ** 2, rows) / rows.size


def _of_cell(
    net: CellNetwork, x: Array, activities: tuple[Array, ...], activation: Any
) -> Float[Array, "*batch"]:
    batch, state, drive = net.flattened(activities, x)
    functions = functions_of(activation, len(state))
    terms = [
        jnp.sum((accurate_slope(f, u) ** 2 * rows).reshape(len(u), -1), axis=1)
        for f, u, rows in zip(
            functions, net.preactivations(state, drive), net.squared_rows(drive.dtype), strict=True
        )
    ]
    return sum(terms[1:], terms[0]).reshape(batch) / sum(map(math.prod, net.state_shapes))


def jacobian_penalty_estimate(
    cell: Callable[[Any, Tree, Any], Tree],
    params: Any,
    x: Any,
    y: Tree,
    key: chex.PRNGKey,
    *,
    num_probes: int = 1,
) -> Float[Array, ""]:
    """||J||_F^2 / n for the Jacobian J of a cell, estimated without it, for one sample.

    The mean of |J^T v|^2 over vectors v of random signs (Hutchinson): unbiased, at the cost of
    `num_probes` vector-Jacobian products. With `y = fixed_point(...).activities` the gradient
    includes how the equilibrium moves. It is the caller's to leave out a sample that did not
    converge.

    Args:
        cell: `cell(params, y, x)` -> a pytree like y.
        params: any pytree.
        x: any pytree; the sample.
        y: the state at which J is taken, a pytree of n floating-point numbers.
        key: for the random signs.
        num_probes: vectors to average over; the error falls with its square root.

    Raises:
        ValueError: `num_probes` is not positive.
    """
    if num_probes < 1:
        raise ValueError(f"num_probes must be at least 1, got {num_probes}")
    leaves, treedef = jax.tree.flatten(jax.tree.map(jnp.asarray, y))
    _, pullback = jax.vjp(lambda y: cell(params, y, x), treedef.unflatten(leaves))

    def probe(key: chex.PRNGKey) -> Array:
        keys = jax.random.split(key, len(leaves))
        signs = [
            jax.random.rademacher(k, leaf.shape, leaf.dtype)
            for k, leaf in zip(keys, leaves, strict=True)
        ]
        (products,) = pullback(treedef.unflatten(signs))
        return jnp.sum(jnp.stack([jnp.sum(p**2) for p in jax.tree.leaves(products)]))

    squares = jax.vmap(probe)(jax.random.split(key, num_probes))
    return jnp.mean(squares) / sum(leaf.size for leaf in leaves)
