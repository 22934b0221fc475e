"""The rightmost eigenvalue of a matrix that is known by products, for a batch."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from irnn_jax.linalg.layout import Layout
from irnn_jax.xla.varying import vary, varying_axes

State = Float[Array, "*state"]

DIMENSION = 40  # of the Krylov space, (DIMENSION, *state)


def rightmost(
    product: Callable[[State], State], start: State, layout: Layout
) -> Float[Array, "*numbers"]:
    """The largest real part of the eigenvalues, by Arnoldi's method from `start`: an estimate.

    Eigenvalues at the rim of the spectrum are found first (Saad, "Numerical methods for large
    eigenvalue problems", 2011, chapter 6).
    """
    axes = varying_axes(start)
    n = start.shape[layout.neurons]
    m = min(DIMENSION, n)
    numbers = layout.norm(start)

    def unit(v: State) -> tuple[State, Array]:
        length = layout.norm(v)
        return jnp.where(length > 0, v / jnp.where(length > 0, length, 1), 0), length

    def extend(k: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
        basis, hessenberg = at
        image = product(basis[k])
        size = layout.norm(image)
        column = jnp.zeros((m + 1, *numbers.shape), start.dtype)

        def without(i: Array, carry: tuple[State, Array]) -> tuple[State, Array]:
            w, column = carry
            overlap = layout.dot(basis[i % m], w)
            return w - overlap * basis[i % m], column.at[i % m].add(overlap)

        # Twice, so that what is left is orthogonal to rounding.
        w, column = jax.lax.fori_loop(0, 2 * m, without, vary((image, column), axes))
        rounding = 10 * float(jnp.finfo(start.dtype).eps) * size
        w, length = unit(jnp.where(layout.norm(w) > rounding, w, 0))
        basis = basis.at[jnp.minimum(k + 1, m - 1)].set(jnp.where(k + 1 < m, w, basis[m - 1]))
        return basis, hessenberg.at[:, k].set(
            column[:m].at[jnp.minimum(k + 1, m - 1)].add(jnp.where(k + 1 < m, length, 0))
        )

    none = jnp.zeros((m, *start.shape), start.dtype)
    empty = jnp.zeros((m, m, *numbers.shape), start.dtype)
    first = none.at[0].set(unit(start)[0]), empty
    _, hessenberg = jax.lax.fori_loop(0, m, extend, vary(first, axes))
    # A matrix for each sample: LAPACK refuses what is not a number.
    small = jnp.moveaxis(hessenberg.reshape(m, m, -1), -1, 0)
    finite = jnp.all(jnp.isfinite(small), axis=(1, 2), keepdims=True)
    values = jnp.linalg.eigvals(jnp.where(finite, small, 0)).real
    largest = jnp.where(finite[:, 0, 0], jnp.max(values, axis=-1), jnp.inf)
    return largest.reshape(numbers.shape)
