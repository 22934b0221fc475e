"""A network on many test samples, some at a time, for memory."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

import irnn_jax as irnn
from experiments.runner.devices import lay_samples
from experiments.runner.networks import NetworkLike

Samples = tuple[Array, Array]  # inputs (samples, inputs) and targets (samples, outputs)


class Tested(NamedTuple):
    """One network on test samples.

    Attributes:
        means: of what was measured, over the samples that converged; NaN if none did.
        converged: fraction of the samples.
        solver_steps: per sample.
    """

    means: Any
    converged: Any
    solver_steps: Any


def evaluate_in_chunks(
    net: NetworkLike,
    samples: Samples,
    measure: Callable[[Array, Array], Any],
    *,
    solver: Any,
    activation: Any = jax.nn.sigmoid,
    num_test: int,
    chunk: int,
) -> Tested:
    """Test on the first `num_test` samples, `chunk` of them at a time.

    Args:
        net: the network.
        samples: at least `num_test`.
        measure: output and target of one sample -> a tree of numbers.
        solver: finds the equilibria.
        activation: f.
        num_test: samples to test on.
        chunk: samples at a time.
    """
    size = min(chunk, num_test)

    def some(first: Array) -> tuple[Any, Array, Array]:
        start = jnp.minimum(first, num_test - size)
        wanted = start + jnp.arange(size) >= first  # the last chunk begins within another
        x, target = lay_samples(
            tuple(jax.lax.dynamic_slice_in_dim(leaf, start, size) for leaf in samples)
        )
        result = irnn.equilibrium(net, x, solver=solver, activation=activation)
        used = wanted & result.converged
        measured = jax.vmap(measure)(irnn.read_out(net, result.activities), target)
        steps = jnp.where(wanted, result.num_steps, 0)
        sums = jax.tree.map(lambda leaf: jnp.sum(jnp.where(used, leaf, 0)), measured)
        return sums, jnp.sum(used), jnp.sum(steps)

    sums = jax.lax.map(some, jnp.arange(0, num_test, size))
    measured, used, steps = jax.tree.map(jnp.sum, sums)
    return Tested(
        means=jax.tree.map(lambda leaf: leaf / used, measured),
        converged=used / num_test,
        solver_steps=steps / num_test,
    )
