"""A network without recurrent weights, layer by layer."""

from jaxtyping import Array, Float

from irnn_jax.activations import Activation, ByLayer
from irnn_jax.linalg.dense import matmul
from irnn_jax.networks.dense import Network, present_skips


def feed_forward(
    net: Network, x: Float[Array, "batch inputs"], f: Activation
) -> tuple[Float[Array, "batch _"], ...]:
    """The activities of each layer, by one pass."""
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
    return tuple(seen[1:])
