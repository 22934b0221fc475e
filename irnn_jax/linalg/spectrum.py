"""Which equilibria the flow would leave, by eigenvalues only where nothing cheaper decides."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from irnn_jax.xla.conditional import run_if


def spectral_abscissa(jacobian: Float[Array, "*batch n n"]) -> Float[Array, "*batch"]:
    """The largest real part of the eigenvalues of D A."""
    return jnp.max(jnp.linalg.eigvals(jacobian).real, axis=-1)


def find_unstable(
    jacobian: Float[Array, "*batch n n"], asked: Bool[Array, "*batch"]
) -> Bool[Array, "*batch"]:
    """Of the samples asked about, those whose D A has an eigenvalue of real part 1 or more.

    No eigenvalue is larger than any norm: where the rows or the columns of |D A| sum to less than
    one the equilibrium is stable. Eigenvalues are computed only if a sample of the batch is left.
    """
    jacobian = jax.lax.stop_gradient(jacobian)
    sizes = jnp.abs(jacobian)
    norm = jnp.minimum(
        jnp.max(jnp.sum(sizes, axis=-1), axis=-1), jnp.max(jnp.sum(sizes, axis=-2), axis=-1)
    )
    undecided = asked & ~(norm < 1)
    return run_if(
        jnp.any(undecided),
        lambda _, jacobian: undecided & _unstable(jacobian, undecided),
        jnp.zeros_like(undecided),
        jacobian,
    )


def _unstable(jacobian: Array, asked: Array) -> Array:
    # LAPACK refuses matrices with NaN; they were not asked about.
    jacobian = jnp.where(asked[..., None, None], jacobian, 0)
    return ~(spectral_abscissa(jacobian) < 1)
