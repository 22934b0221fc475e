"""Convolutional implicit networks: `irnn_jax.conv.init`, and then as dense ones.

```python
net = irnn.conv.init(key, image=(8, 8, 1), channels=(8, 16), strides=(1, 2))
y = irnn.apply(net, x)  # x (..., 8, 8, 1) -> (..., 4, 4, 16)
```
"""

import itertools
from typing import Any

import chex
import jax
import jax.numpy as jnp

from irnn_jax.networks.convolutional import ConvLayer, ConvNetwork, check_image
from irnn_jax.networks.drawing import checked_dtype, positive_integers
from irnn_jax.wellposed.convolutional import CertifiedConv as Certified
from irnn_jax.wellposed.convolutional import CertifiedConvNetwork as CertifiedNetwork

__all__ = ["Certified", "CertifiedNetwork", "ConvLayer", "ConvNetwork", "init"]


def init(
    key: chex.PRNGKey,
    image: tuple[int, int, int],
    channels: tuple[int, ...],
    *,
    kernel: int | tuple[int, ...] = 3,
    lateral: int | tuple[int, ...] | None = 3,
    feedback: int | tuple[int, ...] | None = 3,
    strides: int | tuple[int, ...] = 1,
    recurrent: bool = True,
    dtype: Any = None,
    parametrization: Certified | None = None,
) -> Any:
    """Draw a convolutional network: Q by Glorot and Bengio (2010), T, W and R zero.

    The feed-forward twin of the same key has the same kernels.

    Args:
        key: a JAX random key.
        image: (height, width, channels) of the input.
        channels: of each layer, from the first hidden one to the output.
        kernel: side of the feed-forward kernels, one for all or one a layer.
        lateral: side of the lateral kernels, likewise: 1 connects the filters at a place, 3
            neighbouring places too; None: no lateral kernels.
        feedback: side of the kernels from the layer above, likewise, one for each layer but the
            last; None: no feedback.
        strides: places between two of a layer, in maps of the layer below, likewise.
        recurrent: False for the feed-forward twin, without lateral and feedback kernels.
        dtype: a floating-point dtype; None: JAX's default.
        parametrization: `conv.Certified()`, for one equilibrium for every image; None: the kernels
            are the parameters.

    Returns:
        A `ConvNetwork`, or what the parametrisation makes of it.

    Raises:
        ValueError: a parametrisation of a feed-forward network, an image or channels that are not
            positive integers, sides or strides for another number of layers, or a stride that does
            not divide the maps below.
    """
    if parametrization is not None and not recurrent:
        raise ValueError("a feed-forward network has no recurrent kernels to parametrise")
    image, channels = positive_integers("image", image), positive_integers("channels", channels)
    if len(image) != 3:
        raise ValueError(f"image must be (height, width, channels), got {image}")
    if not channels:
        raise ValueError("channels must have an entry for each layer, got none")
    dtype, count = checked_dtype(dtype), len(channels)
    steps, sides = _each("strides", strides, count), _each("kernel", kernel, count)
    laterals = _each("lateral", lateral, count) if recurrent and lateral is not None else ()
    above = _each("feedback", feedback, count - 1) if recurrent and feedback is not None else ()
    check_image(image, steps)
    glorot = jax.nn.initializers.glorot_uniform()
    layers = []
    ends = itertools.pairwise((image[2], *channels))
    for i, (own_key, (below, here)) in enumerate(
        zip(jax.random.split(key, count), ends, strict=True)
    ):
        side = laterals[i] if laterals else 0
        layers.append(
            ConvLayer(
                feedforward=glorot(own_key, (sides[i], sides[i], below, here), dtype),
                lateral=jnp.zeros((side, side, here, here), dtype) if side else None,
                bias=jnp.zeros((here,), dtype),
            )
        )
    net = ConvNetwork(
        layers=tuple(layers),
        feedback=tuple(
            jnp.zeros((side, side, channels[i + 1], channels[i]), dtype)
            for i, side in enumerate(above)
        ),
        image=image,
        strides=steps,
    )
    return net if parametrization is None else parametrization.start(net)


def _each(name: str, given: Any, count: int) -> tuple[int, ...]:
    """One for each layer."""
    sizes = tuple(given) if isinstance(given, tuple | list) else (given,) * count
    if len(sizes) != count:
        raise ValueError(f"{name} has {len(sizes)} entries, but {count} fit the channels")
    return positive_integers(name, sizes)
