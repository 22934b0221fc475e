"""One linearisation for all samples that share A; `stationary` says what it is for."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from irnn_jax.xla.tuning import DIRECT_UP_TO


class Chord(NamedTuple):
    """What a batch shares.

    Attributes:
        mean: d, (n).
        response: B = (I - A D')^-1 A with D' = diag(d), (n, n).
        known: whether they are computed yet.
    """

    mean: Float[Array, "n *shared"]
    response: Float[Array, "n n *shared"]
    known: Bool[Array, "*shared"]


def chord_pays(num_neurons: int, *, is_shared: bool) -> bool:
    """Whether a linearisation is ever worth its price: on a CPU, and of a matrix that all share.

    Elsewhere products are too fast for it. Few neurons have a factorisation for every sample.
    """
    return is_shared and num_neurons > DIRECT_UP_TO and jax.default_backend() == "cpu"


def unknown_chord(num_neurons: int, dtype: Any = jnp.float32) -> Chord:
    """Before a batch is linearised; float32 is enough on the way to a solution."""
    return Chord(
        mean=jnp.zeros(num_neurons, dtype),
        response=jnp.zeros((num_neurons, num_neurons), dtype),
        known=jnp.zeros((), bool),
    )


def chord_of(matrix: Float[Array, "n n"], mean: Float[Array, " n"]) -> Chord:
    """The linearisation with these mean slopes."""
    # B^T = (I - A^T D')^-1 A^T. LAPACK has matrices by columns: what it returns is B by rows.
    system = jnp.eye(len(matrix), dtype=matrix.dtype) - matrix.T * mean
    response = jnp.linalg.solve(system, matrix.T).T
    return Chord(mean=mean, response=response, known=jnp.ones((), bool))
