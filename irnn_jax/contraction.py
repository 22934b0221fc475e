"""Whether a network has one equilibrium only, so that nobody need ask where the flow goes."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from irnn_jax.activations import Activation, slope_bound
from irnn_jax.linear import matmul

# With more neurons the two products below cost more than eight of A with all samples, unless there
# are so many of these.
PROVE_UP_TO, NEURONS_PER_SAMPLE = 32, 4
# Kept free for rounding, of the product L |A|.
MARGIN = 1e-3


def contracts(
    matrix: Float[Array, "n n"], activation: Activation, num_samples: int
) -> Bool[Array, ""] | None:
    """Whether a norm proves Y -> f(A Y + b) a contraction, whatever b; None where nobody knows.

    With slopes of f between -L and L, |f(A Y + b) - f(A Z + b)| <= L |A| |Y - Z|. If L |A| < 1
    there is one equilibrium, and the flow reaches it from everywhere (Banach). The norm is the
    largest singular value, at most (sum s^8)^(1/8) over all of them, which is the Frobenius norm of
    (A^T A)^2 to the power of 1/4.
    """
    slope, n = slope_bound(activation), len(matrix)
    if slope is None or n > max(PROVE_UP_TO, NEURONS_PER_SAMPLE * num_samples):
        return None
    # In float32, whose rounding is far within the margin.
    matrix = slope * jax.lax.stop_gradient(matrix).astype(jnp.float32)
    square = matmul(matrix.T, matrix)
    fourth = matmul(square, square)
    # NaN and Inf compare false.
    return jnp.sum(fourth**2) < (1 - MARGIN) ** 8
