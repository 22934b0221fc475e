"""An optimiser that pushes a neuron away from its equilibrium: what a guard should take back."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import irnn_jax as irnn
from tests.problems import CHEAP, scalar_neuron


class Pushes(NamedTuple):
    """The state of an optimiser that adds `size` times a fixed update, `left` times."""

    size: Any
    left: Any
    count: Any


def pushing(push: Any, left: int = 10**6) -> optax.GradientTransformation:
    def init(params: Any) -> Any:
        del params
        return Pushes(size=jnp.ones(()), left=jnp.array(left), count=jnp.array(0))

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        del updates, params
        size = jnp.where(state.left > state.count, state.size, 0)
        return jax.tree.map(lambda p: size * p, push), state._replace(count=state.count + 1)

    return optax.GradientTransformation(init, update)


# One neuron at Y = 0.3, near its target; each push of its bias takes it far away.
NEURON, DRIVE, _ = scalar_neuron(2.0, 0.3)
ZERO = jax.tree.map(jnp.zeros_like, NEURON)
PUSH = ZERO._replace(layers=(ZERO.layers[0]._replace(bias=jnp.ones(1)),))
NEURON_BATCH = (DRIVE[None], jnp.full((1, 1), 0.32))


def neuron_step(left: int, guard: irnn.Guard | None, loss: Any = irnn.squared_error) -> Any:
    optimizer = pushing(PUSH, left)
    step = irnn.make_train_step(loss, optimizer, solver=CHEAP, guard=guard)
    return step, irnn.TrainState.create(NEURON, optimizer)


def assert_equal(actual: Any, expected: Any) -> None:
    """Bit for bit."""
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def all_finite(tree: Any) -> bool:
    return all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(tree))
