"""How a batch of states lies in memory, and what is taken of each sample."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array

from irnn_jax.xla.max_norm import max_norm


@dataclasses.dataclass(frozen=True)
class Layout:
    """States have two axes, one for the neurons and one for the samples.

    What there is one of for each sample keeps an axis of length one for the neurons, so that it
    broadcasts with the states.

    Attributes:
        neurons: 0 for samples that lie last, as networks have them; 1 for samples that come first,
            as a cell has them.
    """

    neurons: int

    def size(self, states: Array) -> Array:
        """max|v| of each sample, NaN where one of its numbers is."""
        return max_norm(states, axis=self.neurons, keepdims=True)

    def dot(self, a: Array, b: Array) -> Array:
        """<a, b> of each sample."""
        return jnp.sum(a * b, axis=self.neurons, keepdims=True)

    def norm(self, states: Array) -> Array:
        """The Euclidean norm of each sample."""
        return jnp.sqrt(self.dot(states, states))

    def all(self, condition: Array) -> Array:
        """Whether it holds for all neurons of a sample."""
        return jnp.all(condition, axis=self.neurons, keepdims=True)


NEURONS_FIRST, SAMPLES_FIRST = Layout(0), Layout(1)
