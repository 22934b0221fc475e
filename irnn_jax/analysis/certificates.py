"""What the weights alone prove: one equilibrium for every input, which attracts everything.

Two sufficient conditions, for an activation with slopes between 0 and L. Proofs: docs/wellposed.md.

    Lyapunov:  P A P^-1 has a symmetric part below 1/L, for some positive diagonal P;
    row sums:  sum_j |A_ij| w_j < w_i / L for every i, for some positive w.

Both hold, or do not, for the P and w that are found: a search that finds bad ones proves less, but
nothing wrong. The second condition implies the first.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from irnn_jax.activations import ActivationLike, ByLayer, PowerLaw, as_activation
from irnn_jax.activations import slope_bound as known_slope_bound
from irnn_jax.linalg.dense import matmul
from irnn_jax.networks.cell_network import as_dense
from irnn_jax.networks.dense import NetworkLike, check_network, connections
from irnn_jax.wellposed import ScaledNetwork

# M^(2^20) is its dominant eigenvector, unless two eigenvalues agree to six digits.
SQUARINGS = 20
# What is added to every weight, relative to the largest row sum, so that a Perron vector exists.
CONNECTED = 1e-6
SEARCH_STEPS = 40


class Certificate(NamedTuple):
    """What is known about a network whatever its input; a margin above 0 is a proof.

    Attributes:
        lyapunov_margin: 1 - L max eig of the symmetric part of P A P^-1, ().
        row_sum_margin: 1 - L max_i (|A| w)_i / w_i, (). Where positive, Picard's iteration
            converges, by this share a step, and the flow at this rate.
        scale: P, (n,).
        weights: w, (n,).
        is_certified: one of the margins is positive by more than rounding, ().
    """

    lyapunov_margin: Float[Array, ""]
    row_sum_margin: Float[Array, ""]
    scale: Float[Array, " n"]
    weights: Float[Array, " n"]
    is_certified: Bool[Array, ""]


def certify(
    net: NetworkLike,
    *,
    slope_bound: float | None = None,
    activation: ActivationLike = jax.nn.sigmoid,
) -> Certificate:
    """Whether the network has, for every input, exactly one equilibrium that attracts the flow.

    Both conditions are sufficient, neither is necessary. P is that of the parametrisation, if there
    is one, or the best that a fixed number of steps finds, each of them an eigenvalue problem of
    size n. The margins are differentiable in the weights, at fixed P and w.

    Args:
        net: the network.
        slope_bound: L, the activation's largest slope, for one whose slope is never negative; None:
            what is known of `activation`.
        activation: f, or one for each layer. L is 1/4 for the sigmoid, 1 for tanh, relu and
            softplus, and the largest one of several.

    Raises:
        ValueError: the network's shapes or dtypes do not fit, `slope_bound` is not positive, or
            nothing is known of the activation's slope.
    """
    plain = as_dense(net, "certify")
    check_network(plain)
    if slope_bound is None:
        slope_bound = _largest_slope(activation, plain.sizes[1:])
    if not 0 < slope_bound < float("inf"):
        raise ValueError(f"slope_bound must be positive, got {slope_bound}")
    matrix = connections(plain, jnp.result_type(*jax.tree.leaves(plain)))
    own = jnp.concatenate(net.scales()) if isinstance(net, ScaledNetwork) else None
    return _certify(matrix, own, slope_bound)


def _largest_slope(activation: ActivationLike, sizes: tuple[int, ...]) -> float:
    f = as_activation(activation, sizes)
    bound = known_slope_bound(f)
    if bound is not None:
        return bound
    for function in f.functions if isinstance(f, ByLayer) else (f,):
        if isinstance(function, PowerLaw) and function.power > 1:
            raise ValueError(
                f"certify cannot prove anything with {function}, whose slope has no bound: where "
                "its equilibria are depends on the input; see irnn_jax.stability for one input"
            )
    unknown = getattr(f, "__name__", repr(f))
    raise ValueError(
        f"certify does not know the largest slope of the activation {unknown}: pass it as "
        "slope_bound=, if its slope is never negative"
    )


@functools.partial(jax.jit, static_argnums=2)
def _certify(
    matrix: Float[Array, "n n"], scale: Float[Array, " n"] | None, slope_bound: float
) -> Certificate:
    constant = jax.lax.stop_gradient(matrix)
    left, right = perron_vectors(jnp.abs(constant))
    if scale is None:
        scale = search_scale(constant, jnp.sqrt(left / right))
    scale = jax.lax.stop_gradient(scale)
    symmetric = symmetric_part(matrix, jnp.log(scale))
    lyapunov = 1 - slope_bound * jnp.linalg.eigvalsh(symmetric)[-1]
    row_sum = 1 - slope_bound * jnp.max(matmul(jnp.abs(matrix), right) / right)
    # Eigenvalues and sums are exact for a matrix that is off by n units in the last place.
    largest = jnp.max(jnp.sum(jnp.abs(symmetric), axis=1))
    unit = matrix.shape[0] * float(jnp.finfo(matrix.dtype).eps)
    return Certificate(
        lyapunov_margin=lyapunov,
        row_sum_margin=row_sum,
        scale=scale,
        weights=right,
        is_certified=(lyapunov > unit * (1 + slope_bound * largest)) | (row_sum > 2 * unit),
    )


def symmetric_part(matrix: Float[Array, "n n"], log_scale: Float[Array, " n"]) -> Array:
    """(B + B^T)/2 of B = P A P^-1, (n, n)."""
    scaled = matrix * jnp.exp(log_scale[:, None] - log_scale)
    return (scaled + scaled.T) / 2


def perron_vectors(
    magnitudes: Float[Array, "n n"],
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Positive left and right vectors, close to the dominant ones of a matrix of |A|.

    With w the right one, max_i (|A| w)_i / w_i is close to its least value, the spectral radius.
    """
    n = magnitudes.shape[0]
    norm = jnp.max(jnp.sum(magnitudes, axis=1))
    # The identity breaks cycles of layers, whose dominant eigenvalues come in pairs +-rho.
    power = magnitudes / jnp.where(norm > 0, norm, 1) + CONNECTED / n
    power = power + jnp.eye(n, dtype=power.dtype)
    for _ in range(SQUARINGS):
        power = matmul(power, power)
        power = power / jnp.max(power)
    return jnp.sum(power, axis=0), jnp.sum(power, axis=1)


def search_scale(matrix: Float[Array, "n n"], perron: Float[Array, " n"]) -> Float[Array, " n"]:
    """A diagonal P for which the symmetric part of P A P^-1 has a small largest eigenvalue, (n,).

    Descends the mean of the eigenvalues, weighted towards the largest ones (itself, the largest
    eigenvalue has a kink wherever two meet). Begins at P = 1, or, where that is better, at the P
    with which row sums prove the Lyapunov condition: sqrt(v/w), v and w the Perron vectors of |A|.
    """

    def largest(log_scale):
        return jnp.linalg.eigvalsh(symmetric_part(matrix, log_scale))[-1]

    def descend(carry, fraction):
        log_scale, best, best_value = carry
        values, vectors = jnp.linalg.eigh(symmetric_part(matrix, log_scale))
        better = values[-1] < best_value
        best = jnp.where(better, log_scale, best)
        best_value = jnp.where(better, values[-1], best_value)
        # The derivative with respect to log P_i, for eigenvectors q: q_i ((B - B^T) q)_i.
        spread = values[-1] - values[0]
        temperature = 0.1 * fraction * jnp.where(spread > 0, spread, 1)
        share = jax.nn.softmax(values / temperature)
        skew = matrix * jnp.exp(log_scale[:, None] - log_scale)
        skew = skew - skew.T
        slope = jnp.sum(vectors * matmul(skew, vectors) * share, axis=1)
        size = jnp.linalg.norm(slope)
        step = 0.5 * fraction * slope / jnp.where(size > 0, size, 1)
        return (log_scale - step, best, best_value), None

    log_perron = jnp.log(perron)
    zeros = jnp.zeros_like(log_perron)
    start = jnp.where(largest(zeros) < largest(log_perron), zeros, log_perron)
    infinite = jnp.full((), jnp.inf, matrix.dtype)
    fractions = 0.9 ** jnp.arange(SEARCH_STEPS, dtype=matrix.dtype)
    (_, best, _), _ = jax.lax.scan(descend, (start, start, infinite), fractions)
    return jnp.exp(best)
