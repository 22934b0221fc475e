"""Whether a network has one equilibrium only, so that nobody need ask where the flow goes."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from irnn_jax.activations import Activation, slope_bound
from irnn_jax.linalg.dense import matmul, product
from irnn_jax.xla.batch_last import batch_last
from irnn_jax.xla.tuning import FUSED_UP_TO, NEURONS_PER_SAMPLE, PROVE_UP_TO

# Kept free for rounding, of the product L |A|.
ROUNDING_MARGIN = 1e-3


def contracts(
    matrix: Float[Array, "n n"], activation: Activation, num_samples: int
) -> Bool[Array, ""] | None:
    """Whether a norm proves Y -> f(A Y + b) a contraction, whatever b; None where nobody knows.

    With slopes of f between -L and L, |f(A Y + b) - f(A Z + b)| <= L |A| |Y - Z|. If L |A| < 1
    there is one equilibrium, and the flow reaches it from everywhere (Banach). The norm is the
    largest singular value.
    """
    slope, n = slope_bound(activation), len(matrix)
    # A size that an exported program leaves open is not a number yet.
    if slope is None or not isinstance(num_samples, int):
        return None
    # In float32, whose rounding is far within the margin.
    matrix = jax.lax.stop_gradient(matrix).astype(jnp.float32)
    # NaN and Inf compare false.
    if n > max(PROVE_UP_TO, NEURONS_PER_SAMPLE * num_samples):
        return None
    moment = _moments_of_networks(slope * matrix[:, :, None])[0]
    return moment < (1 - ROUNDING_MARGIN) ** 8


def _moments(matrix: Float[Array, "n n batch"]) -> Float[Array, " batch"]:
    """The sum of s^8 over all singular values s: the squared Frobenius norm of (A^T A)^2."""
    if len(matrix) <= FUSED_UP_TO:
        square = product(jnp.swapaxes(matrix, 0, 1), matrix)
        return jnp.sum(product(square, square) ** 2, axis=(0, 1))
    samples = jnp.moveaxis(matrix, -1, 0)
    square = matmul(jnp.swapaxes(samples, 1, 2), samples)
    return jnp.sum(matmul(square, square) ** 2, axis=(1, 2))


_moments_of_networks = batch_last(_moments, (2,), up_to=FUSED_UP_TO)
