"""u = b + A f(u) for a batch, and how its samples lie in memory."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from irnn_jax import linear
from irnn_jax.activations import value_and_slope
from irnn_jax.max_norm import max_norm
from irnn_jax.precision import in_precision
from irnn_jax.problem import DenseProblem

# (n, batch) or (batch, n), and what there is one of for each sample: (1, batch) or (batch, 1).
States = Float[Array, "_ _"]
Samples = Float[Array, "_ _"]

# Up to so many neurons and samples a product in rows takes half as long, on a CPU. More samples go
# in pieces, and the slowest of a piece keeps fewer waiting the smaller they are.
ROWS_OF_UP_TO, ROWS_UP_TO = 200, 32
# Samples in a piece: with more neurons, whose products are the faster the wider they are, and of
# samples with matrices of their own.
PIECE, OWN_PIECE = 256, 128


class Equation(NamedTuple):
    """u = b + A f(u), for samples side by side, (n, batch), or one below the other, (batch, n).

    What there is one of for each sample is (1, batch) or (batch, 1) accordingly.

    Attributes:
        matrix: A, (n, n), or (n, n, batch) of samples with their own; in rows A^T.
        drive: b, (n, batch).
        function: u, parameters -> f(u), elementwise, on (n, batch).
        slope: f', likewise.
        parameters: arrays that f depends on, (n, batch) each.
        in_rows: whether the samples lie one below the other, all with the same A.
        transposed: whether `matrix` is A^T, which another equation has in memory.
    """

    matrix: Array
    drive: States
    function: Callable[[States, Any], States]
    slope: Callable[[States, Any], States]
    parameters: Any = ()
    in_rows: bool = False
    transposed: bool = False

    @classmethod
    def of(cls, problem: DenseProblem) -> "Equation":
        """Of a batch with one axis."""
        return cls(
            matrix=_without_axis(problem.matrix),
            drive=problem.drive,
            function=lambda u, _: problem.activation(u),
            slope=lambda u, _: value_and_slope(problem.activation, u)[1],
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
            return linear.matmul(value, self.matrix)
        if self.transposed:
            return linear.multiply_transposed(self.matrix, value)
        return linear.multiply(self.matrix, value)

    def value(self, u: States) -> States:
        """f(u)."""
        return self.function(u, self.parameters)

    def slope_at(self, u: States) -> States:
        """f'(u)."""
        return self.slope(u, self.parameters)

    def size(self, change: States) -> Samples:
        """max|change| of each sample."""
        return max_norm(change, axis=int(self.in_rows), keepdims=True)

    def astype(self, dtype: Any) -> "Equation":
        """The same in another precision, for many products: with A as it is multiplied by."""
        arrays = (self.matrix, self.drive, self.parameters)
        matrix, drive, parameters = in_precision(arrays, dtype)
        if self.transposed:
            # Not to be joined with the conversion, which another equation has done too.
            matrix = jnp.swapaxes(jax.lax.optimization_barrier(matrix), 0, 1)
        return self._replace(matrix=matrix, drive=drive, parameters=parameters, transposed=False)

    def laid_out(self) -> "Equation":
        """The same in rows, where that is faster."""
        pays = self.is_shared and _rows_pay(self.num_neurons)
        if not pays or self.num_samples > ROWS_UP_TO:
            return self
        return self._replace(
            matrix=self.matrix if self.transposed else self.matrix.T,
            transposed=False,
            drive=self.drive.T,
            parameters=jax.tree.map(jnp.transpose, self.parameters),
            in_rows=True,
        )

    def turned(self, states: States) -> States:
        """From (n, batch) to how this equation has it, and back."""
        return states.T if self.in_rows else states

    def each(self, numbers: ArrayLike) -> Array:
        """From (batch) to one for each of these samples; a single number stays one."""
        if jnp.ndim(numbers) == 0:
            return jnp.asarray(numbers)
        return jnp.reshape(numbers, (-1, 1) if self.in_rows else (1, -1))


def piece_width(matrix: Float[Array, "n n shared"]) -> int:
    """How many samples at a time are fastest on a CPU."""
    if matrix.shape[-1] > 1:
        return OWN_PIECE
    return ROWS_UP_TO if _rows_pay(len(matrix)) else PIECE


def _rows_pay(num_neurons: int) -> bool:
    return linear.UNROLL_SHARED_UP_TO < num_neurons <= ROWS_OF_UP_TO


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
) -> Equation:
    """The equation u = b + A (D u + c)."""
    return Equation(
        matrix=_without_axis(matrix),
        drive=drive,
        function=lambda u, given: given[0] * u + given[1],
        slope=lambda u, given: given[0],
        parameters=(slope, offset),
        in_rows=in_rows,
        transposed=transposed,
    )
