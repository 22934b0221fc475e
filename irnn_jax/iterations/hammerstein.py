"""Hammerstein's equation u = b + A f(u) for a batch, and how its samples lie in memory."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Shaped

from irnn_jax.activations import Activation, along, value_and_slope
from irnn_jax.linalg import dense
from irnn_jax.xla.max_norm import max_norm
from irnn_jax.xla.precision import in_precision
from irnn_jax.xla.tuning import CHUNK, OWN_CHUNK, ROWS_OF_UP_TO, ROWS_UP_TO, UNROLL_SHARED_UP_TO

# (n, batch) or (batch, n), and what there is one of for each sample: (1, batch) or (batch, 1).
States = Float[Array, "_ _"]
Samples = Float[Array, "_ _"]


class Hammerstein(NamedTuple):
    """u = b + A f(u), for samples side by side, (n, batch), or one below the other, (batch, n).

    What there is one of for each sample is (1, batch) or (batch, 1) accordingly.

    Attributes:
        matrix: A, (n, n), or (n, n, batch) of samples with their own; in rows A^T.
        drive: b, (n, batch).
        function: u, parameters, axis of the neurons -> f(u), elementwise.
        slope: f', likewise.
        parameters: arrays that f depends on, (n, batch) each.
        in_rows: whether the samples lie one below the other, all with the same A.
        transposed: whether `matrix` is A^T, which another equation has in memory.
    """

    matrix: Array
    drive: States
    function: Callable[[States, Any, int], States]
    slope: Callable[[States, Any, int], States]
    parameters: Any = ()
    in_rows: bool = False
    transposed: bool = False

    @classmethod
    def of(cls, matrix: Array, drive: States, activation: Activation) -> "Hammerstein":
        """Of a network's neurons, for a batch with one axis."""
        return cls(
            matrix=_without_axis(matrix),
            drive=drive,
            function=lambda u, _, axis: along(activation, axis)(u),
            slope=lambda u, _, axis: value_and_slope(along(activation, axis), u)[1],
        )

    @property
    def is_shared(self) -> bool:
        """Whether all samples have the same A."""
        return self.matrix.ndim == 2

    @property
    def num_neurons(self) -> int:
        """Of A's rows."""
        return len(self.matrix)

    @property
    def num_samples(self) -> int:
        """Of the batch."""
        return self.drive.size // self.num_neurons

    def times(self, value: States) -> States:
        """A f."""
        if self.in_rows:
            return dense.matmul(value, self.matrix)
        if self.transposed:
            return dense.multiply_transposed(self.matrix, value)
        return dense.multiply(self.matrix, value)

    def value(self, u: States) -> States:
        """f(u)."""
        return self.function(u, self.parameters, int(self.in_rows))

    def slope_at(self, u: States) -> States:
        """f'(u)."""
        return self.slope(u, self.parameters, int(self.in_rows))

    def size(self, change: States) -> Samples:
        """max|change| of each sample."""
        return max_norm(change, axis=int(self.in_rows), keepdims=True)

    def astype(self, dtype: Any) -> "Hammerstein":
        """The same in another precision, for many products: with A as it is multiplied by."""
        arrays = (self.matrix, self.drive, self.parameters)
        matrix, drive, parameters = in_precision(arrays, dtype)
        if self.transposed:
            # Not to be joined with the conversion, which another equation has done too.
            matrix = jnp.swapaxes(jax.lax.optimization_barrier(matrix), 0, 1)
        return self._replace(matrix=matrix, drive=drive, parameters=parameters, transposed=False)

    def laid_out(self) -> "Hammerstein":
        """The same in rows, where that is faster."""
        count = self.num_samples
        few = isinstance(count, int) and count <= ROWS_UP_TO
        if not few or not self.is_shared or not _rows_pay(self.num_neurons):
            return self
        return self._replace(
            matrix=self.matrix if self.transposed else self.matrix.T,
            transposed=False,
            drive=self.drive.T,
            parameters=jax.tree.map(jnp.transpose, self.parameters),
            in_rows=True,
        )

    def turned(self, states: Shaped[Array, "_ _"]) -> Shaped[Array, "_ _"]:
        """From (n, batch) to how this equation has it, and back."""
        return states.T if self.in_rows else states

    def each(self, numbers: ArrayLike) -> Array:
        """From (1, batch) to one for each of these samples; a single number stays one."""
        if jnp.ndim(numbers) == 0:
            return jnp.asarray(numbers)
        return jnp.reshape(numbers, (-1, 1) if self.in_rows else (1, -1))


def chunk_width(matrix: Float[Array, "n n shared"]) -> int:
    """How many samples at a time are fastest on a CPU."""
    if matrix.shape[-1] > 1:
        return OWN_CHUNK
    return ROWS_UP_TO if _rows_pay(len(matrix)) else CHUNK


def _rows_pay(num_neurons: int) -> bool:
    return UNROLL_SHARED_UP_TO < num_neurons <= ROWS_OF_UP_TO


def _without_axis(matrix: Array) -> Array:
    """(n, n) of a matrix that all samples share.

    With an axis of length one behind, XLA copies it for each order in which it lays out the axes.
    """
    return matrix[..., 0] if matrix.ndim == 3 and matrix.shape[-1] == 1 else matrix


def affine(
    matrix: Array,
    drive: States,
    slope: States,
    offset: States,
    *,
    in_rows: bool = False,
    transposed: bool = False,
) -> Hammerstein:
    """The equation u = b + A (D u + c)."""
    return Hammerstein(
        matrix=_without_axis(matrix),
        drive=drive,
        function=lambda u, given, _: given[0] * u + given[1],
        slope=lambda u, given, _: given[0],
        parameters=(slope, offset),
        in_rows=in_rows,
        transposed=transposed,
    )
