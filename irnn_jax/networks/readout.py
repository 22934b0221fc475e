"""A linear read-out of a network's last layer: logits, or targets beyond the activation's range."""

import math
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from irnn_jax.linalg.dense import matmul
from irnn_jax.networks.cell_network import CellNetwork
from irnn_jax.networks.dense import NetworkLike, as_network
from irnn_jax.networks.groups import parameter_groups


class ReadOut(NamedTuple):
    """A network and what is read from it: V z + c, of the features z of its last layer.

    Features are the layer's activities; of maps, the mean of each over its places.

    Attributes:
        net: the network, of any kind, parametrised or not.
        weight: V, (outputs, features).
        bias: c, (outputs,).
    """

    net: Any
    weight: Float[Array, "outputs features"]
    bias: Float[Array, " outputs"]

    def network(self) -> Any:
        """The network without its read-out."""
        return as_network(self.net)

    def groups(self) -> "ReadOut":
        """The groups of the network, and "readout"."""
        groups: Any = parameter_groups(self.net)
        return ReadOut(net=groups, weight="readout", bias="readout")  # pyright: ignore

    def read_out(self, activities: tuple[Array, ...]) -> Float[Array, "*batch outputs"]:
        """V z + c."""
        last = activities[-1]
        places = _axes_of_places(as_network(self.net))
        features = jnp.mean(last, axis=places) if places else last
        if self.weight.shape[-1] != features.shape[-1]:
            raise ValueError(
                f"the read-out takes {self.weight.shape[-1]} features, but the network's last "
                f"layer has {features.shape[-1]}"
            )
        flat = features.reshape(-1, features.shape[-1])
        outputs = matmul(flat, self.weight.astype(flat.dtype).T) + self.bias.astype(flat.dtype)
        return outputs.reshape(*features.shape[:-1], -1)


def with_readout(key: chex.PRNGKey, net: NetworkLike, outputs: int) -> ReadOut:
    """The network with a linear read-out, drawn as LeCun et al. (1998) do, without bias.

    Args:
        key: a JAX random key.
        net: from `init`, `conv.init` or built by hand; its last layer is then a hidden one.
        outputs: how many numbers are read.

    Raises:
        ValueError: `outputs` is not positive.
    """
    if outputs < 1:
        raise ValueError(f"outputs must be at least 1, got {outputs}")
    inner: Any = as_network(net)
    bias = inner.layers[-1].bias
    features = bias.shape[-1]
    weight = jax.random.normal(key, (outputs, features), bias.dtype) / math.sqrt(features)
    return ReadOut(net=net, weight=weight, bias=jnp.zeros((outputs,), bias.dtype))


def read_out(net: NetworkLike, activities: tuple[Array, ...]) -> Array:
    """What `apply` returns: the last layer's activities, or what a read-out makes of them."""
    read = getattr(net, "read_out", None)
    return activities[-1] if read is None else read(activities)


def _axes_of_places(net: Any) -> tuple[int, ...]:
    shape = net.state_shapes[-1] if isinstance(net, CellNetwork) else (0,)
    return tuple(range(-len(shape), -1))
