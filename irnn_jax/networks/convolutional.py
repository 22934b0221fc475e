"""Convolutional networks with lateral and feedback kernels: feature maps that see each other.

Layer i has maps y_i (height, width, channels) and, with * a convolution and *' a transposed one,

    y_i = f(Q_i * y_{i-1} + W_i * y_i + R_i *' y_{i+1} + T_i),    y_0 = x,

where Q has the layer's stride, a lateral W of 1 x 1 connects the filters at a place and a larger
one neighbouring places too, and R goes back with the stride of the layer above: "recurrent
connections between different filters" and between "neighbouring kernels", as the paper's
discussion asks for. Edges are padded with zeros.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from irnn_jax.activations import Activation
from irnn_jax.networks.cell_network import Activities, CellNetwork

CHANNELS_LAST = ("NHWC", "HWIO", "NHWC")


class ConvLayer(NamedTuple):
    """One layer's kernels.

    Attributes:
        feedforward: Q, (height, width, channels below, channels).
        lateral: W, (height, width, channels, channels), from the layer to itself, or None.
        bias: T, (channels,).
    """

    feedforward: Float[Array, "height width below channels"]
    lateral: Float[Array, "height width channels channels"] | None
    bias: Float[Array, " channels"]


class ConvNetwork(CellNetwork):
    """All kernels of a network, a pytree, and the image that it takes.

    Attributes:
        layers: from the first hidden layer to the output.
        feedback: feedback[i] is R, (height, width, channels_{i+1}, channels_i), from layer i+1
            back to layer i, or None.
        image: (height, width, channels) of the input.
        strides: of each layer's feed-forward kernel.
    """

    layers: tuple[ConvLayer, ...]
    feedback: tuple[Float[Array, "height width above channels"] | None, ...]
    image: tuple[int, int, int] = eqx.field(static=True)
    strides: tuple[int, ...] = eqx.field(static=True)

    @property
    def is_recurrent(self) -> bool:
        """Whether any lateral or feedback kernels are present."""
        lateral = (layer.lateral for layer in self.layers)
        return any(kernel is not None for kernel in (*lateral, *self.feedback))

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(height, width, channels)."""
        return self.image

    @property
    def state_shapes(self) -> tuple[tuple[int, ...], ...]:
        """(height, width, channels) of each layer."""
        height, width = self.image[:2]
        shapes = []
        for layer, stride in zip(self.layers, self.strides, strict=True):
            height, width = height // stride, width // stride
            shapes.append((height, width, layer.bias.shape[-1]))
        return tuple(shapes)

    def groups(self) -> "ConvNetwork":
        """The name of each parameter's group, as the optimisers know them."""

        def name(path: Any, leaf: Array) -> str:
            del leaf
            names = [getattr(key, "name", "") for key in path]
            known = ("feedforward", "lateral", "feedback", "bias")
            return next(group for group in known if group in names)

        return jax.tree_util.tree_map_with_path(name, self)

    def network(self) -> "ConvNetwork":
        """Itself."""
        return self

    def drive(self, x: Float[Array, "batch height width channels"]) -> Array:
        """Q x + T of the first layer."""
        return self._from_below(0, x)

    def preactivations(self, state: Activities, drive: Array) -> Activities:
        """Q * y_{i-1} + W * y_i + R *' y_{i+1} + T of each layer."""
        driven = []
        for i, layer in enumerate(self.layers):
            u = drive if i == 0 else self._from_below(i, state[i - 1])
            if layer.lateral is not None:
                u = u + convolve(state[i], layer.lateral)
            if i < len(self.feedback) and (kernel := self.feedback[i]) is not None:
                u = u + convolve_back(state[i + 1], kernel, self.strides[i + 1])
            driven.append(u)
        return tuple(driven)

    def feed_forward(self, drive: Array, functions: tuple[Activation, ...]) -> Activities:
        """By the feed-forward kernels alone."""
        activities = [functions[0](drive)]
        for i in range(1, len(self.layers)):
            activities.append(functions[i](self._from_below(i, activities[-1])))
        return tuple(activities)

    def squared_rows(self, dtype: Any) -> Activities:
        """By the squared kernels on maps of ones, so that what lies beyond an edge is left out."""
        ones = tuple(jnp.ones((1, *shape), dtype) for shape in self.state_shapes)
        squared: ConvNetwork = jax.tree.map(lambda kernel: kernel.astype(dtype) ** 2, self)
        without_bias = [layer._replace(bias=jnp.zeros_like(layer.bias)) for layer in squared.layers]
        squared = eqx.tree_at(lambda net: net.layers, squared, tuple(without_bias))
        rows = squared.preactivations(ones, jnp.zeros_like(ones[0]))
        return tuple(row[0] for row in rows)

    def check(self) -> None:
        """Raise a ValueError that names the first kernel that does not fit."""
        check_kernels(self)

    def _from_below(self, i: int, below: Array) -> Array:
        layer = self.layers[i]
        return convolve(below, layer.feedforward, self.strides[i]) + layer.bias.astype(below.dtype)


def convolve(maps: Array, kernel: Array, stride: int = 1) -> Array:
    """Channels last, zeros beyond the edges, every `stride`-th place."""
    return jax.lax.conv_general_dilated(
        maps,
        kernel.astype(maps.dtype),
        (stride, stride),
        "SAME",
        dimension_numbers=CHANNELS_LAST,
    )


def convolve_back(maps: Array, kernel: Array, stride: int) -> Array:
    """To maps `stride` times as large."""
    return jax.lax.conv_transpose(
        maps,
        kernel.astype(maps.dtype),
        (stride, stride),
        "SAME",
        dimension_numbers=CHANNELS_LAST,
    )


def check_image(image: Any, strides: Any) -> None:
    """Raise a ValueError unless every stride divides the maps that it steps over."""
    height, width, _ = image
    for i, stride in enumerate(strides):
        if height % stride or width % stride:
            raise ValueError(
                f"strides[{i}] = {stride} does not divide the maps below, {height} x {width}"
            )
        height, width = height // stride, width // stride


def check_kernels(net: ConvNetwork) -> None:
    """Raise a ValueError that names the first kernel whose shape or dtype does not fit."""
    if not net.layers:
        raise ValueError("a network needs at least one layer")
    if len(net.strides) != len(net.layers):
        raise ValueError(
            f"strides has {len(net.strides)} entries, but the network has {len(net.layers)} layers"
        )
    if len(net.feedback) not in (0, len(net.layers) - 1):
        raise ValueError(
            f"feedback has {len(net.feedback)} entries, but a network of {len(net.layers)} layers "
            f"takes {len(net.layers) - 1} (or none)"
        )
    check_image(net.image, net.strides)
    channels = [net.image[2], *(jnp.shape(layer.bias)[-1] for layer in net.layers)]
    expected: list[tuple[str, Any, tuple[int, ...]]] = []
    for i, layer in enumerate(net.layers):
        here = channels[i + 1]
        expected.append((f"layers[{i}].feedforward", layer.feedforward, (channels[i], here)))
        expected.append((f"layers[{i}].lateral", layer.lateral, (here, here)))
    for i, kernel in enumerate(net.feedback):
        expected.append((f"feedback[{i}]", kernel, (channels[i + 2], channels[i + 1])))
    for name, kernel, ends in expected:
        if kernel is None:
            continue
        shape = jnp.shape(kernel)
        if len(shape) != 4 or shape[2:] != ends:
            raise ValueError(
                f"{name} has shape {shape}, but (height, width, {ends[0]}, {ends[1]}) fits its "
                "neighbours"
            )
        if not jnp.issubdtype(kernel.dtype, jnp.floating):
            raise ValueError(f"{name} has dtype {kernel.dtype}, but kernels are floating-point")
