"""A network that is solved as a cell: what a kind of network says of itself, and no more.

A kind whose Jacobian is known by products alone, a convolutional one for instance, is a subclass.
What dense networks have comes with it: flags, gradients, penalty, stability, training.
"""

import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from irnn_jax.activations import Activation, ActivationLike, ByLayer, as_activation
from irnn_jax.networks.dense import Network, NetworkLike, as_network
from irnn_jax.xla.samples import are_finite, kept

Activities = tuple[Array, ...]


class CellNetwork(eqx.Module):
    """Layers y_i = f_i(u_i) with preactivations u = preactivations(y, drive).

    A pytree of weights. States have the batch as their first axis.
    """

    @property
    @abc.abstractmethod
    def is_recurrent(self) -> bool:
        """Whether any lateral or feedback weights are present."""

    @property
    @abc.abstractmethod
    def input_shape(self) -> tuple[int, ...]:
        """Of one sample."""

    @property
    @abc.abstractmethod
    def state_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of one sample, of each layer."""

    @abc.abstractmethod
    def check(self) -> None:
        """Raise a ValueError that names the first weight whose shape or dtype does not fit."""

    @abc.abstractmethod
    def drive(self, x: Array) -> Array:
        """What the input and the bias contribute to the first layer, (batch, ...)."""

    @abc.abstractmethod
    def preactivations(self, state: Activities, drive: Array) -> Activities:
        """What drives each neuron."""

    @abc.abstractmethod
    def feed_forward(self, drive: Array, functions: tuple[Activation, ...]) -> Activities:
        """Layer by layer, without recurrent weights."""

    @abc.abstractmethod
    def squared_rows(self, dtype: Any) -> Activities:
        """The sum over j of A_ij^2 for each neuron i, of one sample."""

    def step(
        self, state: Activities, drive: Array, functions: tuple[Activation, ...]
    ) -> Activities:
        """f(A Y + b), the cell."""
        driven = self.preactivations(state, drive)
        return tuple(f(u) for f, u in zip(functions, driven, strict=True))

    def flattened(
        self, activities: Activities, x: Array
    ) -> tuple[tuple[int, ...], Activities, Array]:
        """The batch's shape; the activities and the drive of x, with one axis for the batch.

        A sample that is not a number has the drive of zero.
        """
        batch = x.shape[: x.ndim - len(self.input_shape)]
        pairs = zip(activities, self.state_shapes, strict=True)
        state = tuple(leaf.reshape(-1, *shape) for leaf, shape in pairs)
        x = x.reshape(-1, *self.input_shape).astype(state[0].dtype)
        return batch, state, self.drive(kept(are_finite(x, 1), x))

    def checked_input(self, x: Any) -> Array:
        """`x` (..., *input_shape) as an array, or a ValueError in the caller's words."""
        x, shape = jnp.asarray(x), self.input_shape
        wanted = f"(..., {', '.join(map(str, shape))})"
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(
                f"x has dtype {x.dtype}, but the network takes floating-point input: convert it, "
                "for example by x.astype(float)"
            )
        if x.shape[max(x.ndim - len(shape), 0) :] != shape:
            raise ValueError(f"x has shape {x.shape}, but the network takes {wanted}")
        return x


def functions_of(activation: ActivationLike, num_layers: int) -> tuple[Activation, ...]:
    """One function a layer, from one for all or a tuple; a ValueError where they do not fit."""
    f = as_activation(activation, (1,) * num_layers)
    return f.functions if isinstance(f, ByLayer) else (f,) * num_layers


def as_dense(net: NetworkLike, function: str) -> Network:
    """The weights of a dense network, or a ValueError for one without a matrix."""
    plain = as_network(net)
    if isinstance(plain, CellNetwork):
        raise ValueError(
            f"{function} takes a dense network, and this is a convolutional one, whose connections "
            "are known by products alone"
        )
    return plain
