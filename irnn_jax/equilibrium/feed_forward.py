"""A network without recurrent weights: layer by layer, and the record of a solve of no steps."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from irnn_jax.activations import Activation, ByLayer
from irnn_jax.linalg.dense import matmul
from irnn_jax.networks.dense import Network, present_skips
from irnn_jax.solvers import Solved
from irnn_jax.status import Status


def feed_forward(
    net: Network, x: Float[Array, "batch inputs"], finite: Bool[Array, " batch"], f: Activation
) -> tuple[tuple[Array, ...], Solved]:
    """The activities of each layer, by one pass, and its record."""
    dtype = x.dtype
    functions = f.functions if isinstance(f, ByLayer) else (f,) * len(net.layers)
    seen, skips = [x], present_skips(net)
    for i, layer in enumerate(net.layers):
        total = matmul(seen[-1], layer.feedforward.astype(dtype).T)
        total = total + layer.bias.astype(dtype)[None]
        for (source, target), weights in skips:
            if target == i + 1:
                total = total + matmul(seen[source], weights.astype(dtype).T)
        seen.append(functions[i](total))
    activities = seen[1:]
    state = jnp.concatenate(activities, axis=-1)
    ended = finite & jnp.all(jnp.isfinite(state), axis=-1)
    return tuple(activities), Solved(
        state=state,
        # One pass is the equilibrium itself: f(A Y + b) repeats the same arithmetic.
        residual=jnp.where(ended, 0, jnp.inf).astype(x.dtype),
        num_steps=jnp.zeros(x.shape[0], jnp.int32),
        time=jnp.zeros(x.shape[0], x.dtype),
        finished=jnp.ones(x.shape[0], bool),
        error=jnp.zeros(x.shape[0], x.dtype),
        sensitivity=jnp.ones(x.shape[0], x.dtype),
        status=jnp.where(ended, Status.CONVERGED, Status.NON_FINITE).astype(jnp.int32),
    )
