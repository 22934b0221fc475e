"""The networks of an experiment: what `model` in its configuration describes."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray
from omegaconf import DictConfig, ListConfig

import irnn_jax as irnn
from experiments.runner.errors import BadConfig
from experiments.runner.making import make
from irnn_jax import NetworkLike

__all__ = [
    "NetworkLike",
    "activation_of",
    "draw",
    "is_convolutional",
    "laid_out",
    "num_parameters",
    "reads_out",
]

KERNELS = ("kernel", "lateral", "feedback", "strides")


def draw(
    config: DictConfig, network: DictConfig, key: PRNGKeyArray, sizes: tuple[int, ...]
) -> NetworkLike:
    """One network of an experiment, with the model's parametrisation unless it is feed-forward.

    Args:
        config: of the experiment.
        network: one of its `networks`.
        key: a JAX random key.
        sizes: (inputs, hidden..., outputs); hidden ones are channels where `model.image` is set.
    """
    model: Any = config.model
    kind: dict[str, Any] = {"recurrent": network.recurrent}
    if model.get("parametrization") is not None and network.recurrent:
        kind = {"parametrization": make(model.parametrization)}
    own_key, read_key = jax.random.split(key) if reads_out(config) else (key, key)
    below, outputs = sizes if not reads_out(config) else sizes[:-1], sizes[-1]
    if is_convolutional(config):
        shapes = {name: _plain(model[name]) for name in KERNELS if model.get(name, 0) != 0}
        net = irnn.conv.init(own_key, tuple(model.image), tuple(below[1:]), **shapes, **kind)
    else:
        initialization = model.get("initialization", "paper")
        net = irnn.init(own_key, below, initialization=initialization, **kind)
    return irnn.with_readout(read_key, net, outputs) if reads_out(config) else net


def is_convolutional(config: DictConfig) -> bool:
    """Whether hidden layers are feature maps."""
    model: Any = config.model
    return model.get("image") is not None


def reads_out(config: DictConfig) -> bool:
    """Whether the model has a linear read-out on its last hidden layer."""
    model: Any = config.model
    kind = model.get("readout")
    if kind not in (None, "linear"):
        raise BadConfig(f"model.readout must be null or linear, got {kind!r}")
    if is_convolutional(config) and kind is None:
        raise BadConfig("a convolutional model needs model.readout=linear: its layers are maps")
    if kind is not None and not model.hidden:
        raise BadConfig("model.readout=linear needs a hidden layer to read: model.hidden=[20]")
    return kind is not None


def activation_of(config: DictConfig) -> Any:
    """The function of all layers, or a tuple with one for each, that `model.activation` names."""
    model: Any = config.model
    named = model.get("activation")
    if named is None:
        return jax.nn.sigmoid
    return tuple(map(make, named)) if isinstance(named, ListConfig) else make(named)


def laid_out(config: DictConfig, x: Any) -> Any:
    """Inputs (samples, inputs) as the model takes them: as images where it is convolutional."""
    model: Any = config.model
    image = model.get("image")
    if image is None:
        return x
    if math.prod(image) != x.shape[-1]:
        raise BadConfig(f"model.image is {list(image)}, but a sample has {x.shape[-1]} numbers")
    return jnp.reshape(x, (*x.shape[:-1], *image))


def num_parameters(net: NetworkLike) -> int:
    """Weights and biases."""
    return sum(leaf.size for leaf in jax.tree.leaves(net))


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, ListConfig) else value
