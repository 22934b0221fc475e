"""An optimiser for each group of parameters; the paper's is Adam (section 3.5)."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import optax

from irnn_jax.networks.groups import GROUPS, parameter_groups

LearningRate = float | jax.Array | optax.Schedule
# What is done with the groups that a network has, by name.
Choice = Callable[[set[str]], Mapping[Hashable, optax.GradientTransformation]]


def by_group(
    transformations: Mapping[str, optax.GradientTransformation],
) -> optax.GradientTransformationExtraArgs:
    """An optax transformation for each group of parameters.

    Each sees the parameters and the gradient of its group alone: a norm it clips is the group's,
    and the function that a line search follows is the loss with the other groups as they are. A
    group is kept as it is by `optax.set_to_zero()`.

    Args:
        transformations: by the name of the group: feedforward, lateral, feedback, bias, readout,
            and what else the network's own `groups()` names. A network may lack the first five.

    Raises:
        ValueError: a value is no transformation; at `init`, a group of the network that was given
            none, or a name that is neither one of the first five nor one of the network's.
    """
    if not isinstance(transformations, Mapping):
        raise ValueError(
            "by_group takes a mapping from groups to optax transformations, got a "
            f"{type(transformations).__name__}"
        )
    given = dict(transformations)
    for group, transformation in given.items():
        if not isinstance(transformation, optax.GradientTransformation):
            raise ValueError(
                f"by_group takes an optax.GradientTransformation for the parameter group {group!r},"
                f" got a {type(transformation).__name__}; use irnn.adam for rates"
            )

    def choose(groups: set[str]) -> Mapping[Hashable, optax.GradientTransformation]:
        _check_known(given, _with_standard(groups))
        _check_complete(given, groups, "transformation")
        # Not of groups that the network lacks: some transformations cannot be of nothing.
        return {group: tx for group, tx in given.items() if group in groups}

    return _partitioned(choose)


def adam(
    learning_rate: LearningRate | Mapping[str, LearningRate] = 0.01,
) -> optax.GradientTransformationExtraArgs:
    """One `optax.adam` each for the groups feedforward, lateral, feedback and bias.

    "We have applied the ADAM algorithm for every weight matrix Q, W and T separately" (section
    3.5), with a learning rate of 0.01.

    Args:
        learning_rate: one for all groups of the network, or one for each of the four and readout,
            by name; a number, a traced scalar or an optax schedule. A network may lack the groups
            lateral, feedback and readout; of one with further groups, `by_group` sets each.

    Raises:
        ValueError: an unknown group; at `init`, a group of the network that was given no rate.
    """
    if not isinstance(learning_rate, Mapping):
        one = optax.adam(learning_rate)
        return _partitioned(lambda groups: dict.fromkeys(_with_standard(groups), one))
    _check_known(learning_rate, GROUPS)
    transformations: dict[Hashable, optax.GradientTransformation] = {
        group: optax.adam(rate) for group, rate in learning_rate.items()
    }

    def choose(groups: set[str]) -> Mapping[Hashable, optax.GradientTransformation]:
        _check_complete(transformations, groups, "learning rate")
        return transformations

    return _partitioned(choose)


def _with_standard(groups: set[str]) -> tuple[str, ...]:
    """The usual ones, and what else a network has."""
    return (*GROUPS, *sorted(groups - set(GROUPS)))


def _check_known(given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    unknown = sorted(set(given) - set(known), key=str)
    if unknown:
        raise ValueError(f"unknown parameter group {unknown[0]!r}; the groups are {known}")


def _check_complete(given: Mapping[Any, Any], groups: set[str], what: str) -> None:
    missing = sorted(groups - set(given))
    if missing:
        raise ValueError(
            f"no {what} was given for the parameter group {missing[0]!r}; given were {tuple(given)}"
        )


def _partitioned(choose: Choice) -> optax.GradientTransformationExtraArgs:
    """To each group of a network its own transformation."""

    def partition(net: Any) -> optax.GradientTransformationExtraArgs:
        labels = parameter_groups(net)
        chosen = choose(set(jax.tree.leaves(labels)))
        # A function, since a network that can be called would be taken for one.
        return optax.partition(chosen, lambda _: labels, mask_compatible_extra_args=True)

    def update(
        updates: Any, state: optax.OptState, params: Any = None, **extra: Any
    ) -> tuple[Any, optax.OptState]:
        value_fn = extra.get("value_fn")
        if value_fn is not None:
            extra["value_fn"] = lambda part: value_fn(_filled(part, params))
        return partition(updates).update(updates, state, params, **extra)

    return optax.GradientTransformationExtraArgs(
        lambda params: partition(params).init(params), update
    )


def _filled(part: Any, params: Any) -> Any:
    """A group's parameters, with all others as they are in `params`."""

    def is_masked(leaf: Any) -> bool:
        return isinstance(leaf, optax.MaskedNode)

    def choose(own: Any, other: Any) -> Any:
        return other if is_masked(own) else own

    return jax.tree.map(choose, part, params, is_leaf=is_masked)
