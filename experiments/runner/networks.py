"""The networks of an experiment."""

import jax
from jaxtyping import PRNGKeyArray
from omegaconf import DictConfig

import irnn_jax as irnn
from experiments.runner.making import make
from irnn_jax import NetworkLike

__all__ = ["NetworkLike", "draw", "num_parameters"]


def draw(
    config: DictConfig, network: DictConfig, key: PRNGKeyArray, sizes: tuple[int, ...]
) -> NetworkLike:
    """One network of an experiment, with the model's parametrisation unless it is feed-forward."""
    if config.model.parametrization is None or not network.recurrent:
        return irnn.init(key, sizes, recurrent=network.recurrent)
    return irnn.init(key, sizes, parametrization=make(config.model.parametrization))


def num_parameters(net: NetworkLike) -> int:
    """Weights and biases."""
    return sum(leaf.size for leaf in jax.tree.leaves(net))
