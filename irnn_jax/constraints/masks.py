"""Masks to be had: without self-connections, sparse, local."""

import chex
import jax
import numpy as np
from jaxtyping import Bool

from irnn_jax.constraints.binary import concrete
from irnn_jax.networks.dense import NetworkLike, as_network, check_network
from irnn_jax.networks.wiring import Connection, map_connections

Masks = dict[str, Bool[np.ndarray, "_ _"]]


def connection_shapes(net: NetworkLike) -> dict[Connection, tuple[int, ...]]:
    """Shape of each weight matrix that is there."""
    plain, found = as_network(net), {}
    check_network(plain)
    map_connections(lambda connection, weights: found.update({connection: weights.shape}), plain)
    return found


def no_self_connections(net: NetworkLike) -> Masks:
    """For `masked`: no neuron acts on itself; every lateral matrix has a diagonal of zeros.

    Args:
        net: the network whose masks they are to be; its numbers are not looked at.
    """
    return {
        connection.name: ~np.eye(*shape, dtype=bool)
        for connection, shape in connection_shapes(net).items()
        if connection.source == connection.target
    }


def random_mask(key: chex.PRNGKey, net: NetworkLike, density: float) -> Masks:
    """For `masked`: of each weight matrix a share `density`, drawn at random, is left.

    Args:
        key: a JAX random key, not a traced one: masks are static.
        net: the network whose masks they are to be; its numbers are not looked at.
        density: in (0, 1]; round(density * entries) entries of each matrix are left. For another
            one in some matrices, or to leave them whole, change the dict's entries.

    Raises:
        ValueError: a density that is none, or a traced key.
    """
    if not 0 < density <= 1:
        raise ValueError(f"density must be above 0 and at most 1, got {density}")
    shapes = connection_shapes(net)
    # Also while a program is traced that this key is no argument of.
    with jax.ensure_compile_time_eval():
        seed = concrete("the key of a random mask", jax.random.key_data(key))
    # NumPy's, since masks are a part of the program: nothing is compiled for each shape.
    rng = np.random.default_rng(seed)
    masks = {}
    for connection, shape in shapes.items():
        size = int(np.prod(shape))
        left = rng.permutation(size) < round(density * size)
        masks[connection.name] = left.reshape(shape)
    return masks


def local_mask(shape: tuple[int, int], radius: float) -> Bool[np.ndarray, "size source"]:
    """One matrix's mask: neurons act on those that are no further than `radius` from them.

    Both layers' neurons lie evenly on the same line, whatever their number, and distances are in
    units of the source's neurons: for a lateral matrix |i - j| <= radius.

    Args:
        shape: (size, size of the source), of the weights.
        radius: at least 0.

    Raises:
        ValueError: a shape that is none of a matrix, or a negative radius.
    """
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"shape must be that of a weight matrix, got {shape}")
    if not radius >= 0:
        raise ValueError(f"radius must be at least 0, got {radius}")
    size, source = shape
    at = (np.arange(size) + 0.5) * source / size
    return np.abs(at[:, None] - (np.arange(source) + 0.5)) <= radius
