"""Adam, set for each group of parameters (section 3.5)."""

from collections.abc import Hashable, Mapping
from typing import Any

import jax
import optax

from irnn_jax.networks.dense import NetworkLike
from irnn_jax.networks.groups import GROUPS, parameter_groups

LearningRate = float | jax.Array | optax.Schedule


def adam(
    learning_rate: LearningRate | Mapping[str, LearningRate] = 0.01,
) -> optax.GradientTransformationExtraArgs:
    """One `optax.adam` each for the groups feedforward, lateral, feedback and bias.

    "We have applied the ADAM algorithm for every weight matrix Q, W and T separately" (section
    3.5), with a learning rate of 0.01.

    Args:
        learning_rate: one for all groups, or one for each, by name; a number, a traced scalar or
            an optax schedule. A network may lack the groups lateral and feedback.

    Raises:
        ValueError: an unknown group; at `init`, a group of the network that was given no rate.
    """
    if not isinstance(learning_rate, Mapping):
        learning_rate = dict.fromkeys(GROUPS, learning_rate)
    unknown = sorted(set(learning_rate) - set(GROUPS))
    if unknown:
        raise ValueError(f"unknown parameter group {unknown[0]!r}; the groups are {GROUPS}")

    def labels(net: NetworkLike) -> Any:
        groups = parameter_groups(net)
        missing = sorted(set(jax.tree.leaves(groups)) - set(learning_rate))
        if missing:
            raise ValueError(f"no learning rate was given for the parameter group {missing[0]!r}")
        return groups

    transforms: dict[Hashable, optax.GradientTransformation] = {
        group: optax.adam(rate) for group, rate in learning_rate.items()
    }
    return optax.partition(transforms, labels)
