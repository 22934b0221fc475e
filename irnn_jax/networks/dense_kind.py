"""A network as a kind of problem: one matrix for a batch of drives."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from irnn_jax.activations import Activation, accurate_slope
from irnn_jax.linalg.dense import matmul, multiply
from irnn_jax.linalg.layout import NEURONS_FIRST, Layout
from irnn_jax.networks.contraction import contracts
from irnn_jax.networks.dense_problem import DenseProblem
from irnn_jax.xla.batch_last import batch_last


class DenseInputs(NamedTuple):
    """The numbers of a network and a batch.

    Attributes:
        matrix: A, (n, n, 1), of all samples.
        drive: b, (n, batch).
        tolerance: of each sample, (1, batch), or None for the solver's.
        contracts: which samples have one equilibrium only, by proof, (1, batch); None: unknown.
    """

    matrix: Float[Array, "n n *shared"]
    drive: Float[Array, "n *batch"]
    tolerance: Float[Array, "1 *batch"] | None = None
    contracts: Bool[Array, "1 *batch"] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseKind:
    """Y = f(A Y + b); `sizes` are the layers', from input to output.

    `joins` says whether what `jax.vmap` adds is joined with the batch, which has no reverse mode.
    """

    activation: Activation
    sizes: tuple[int, ...]
    joins: bool = True
    layout: ClassVar[Layout] = NEURONS_FIRST

    def problem(self, inputs: DenseInputs) -> DenseProblem:
        """With these numbers."""
        return DenseProblem(
            matrix=inputs.matrix,
            drive=inputs.drive,
            tolerance=inputs.tolerance,
            contracts=inputs.contracts,
            activation=self.activation,
            sizes=self.sizes,
        )

    def lay_out(self, solve: Callable[..., Any]) -> Callable[..., Any]:
        """Runs and networks beside the samples, in one long loop over memory."""

        def laid_out(inputs: DenseInputs, y0: Array) -> Any:
            count = inputs.drive.shape[1]
            proven = contracts(inputs.matrix[..., 0], self.activation, count)
            if proven is not None:
                inputs = inputs._replace(contracts=jnp.broadcast_to(proven, (1, count)))
            leaves, tree = jax.tree.flatten((inputs, y0))

            def flat(*leaves: Array) -> Any:
                return solve(self, *jax.tree.unflatten(tree, leaves))

            axes = tuple(leaf.ndim - 1 for leaf in leaves)
            if not self.joins:
                return flat(*leaves)
            return batch_last(flat, axes)(*leaves)

        return laid_out

    def without_failed(
        self, inputs: DenseInputs, y: Array, usable: Array
    ) -> tuple[DenseInputs, Array]:
        """Y = 0 in place of a state that was not reached."""
        return inputs, jnp.where(usable, y, 0)

    def cotangents(self, inputs: DenseInputs, y: Array, w: Array, usable: Array) -> DenseInputs:
        """dL/dA = u Y^T and dL/db = u with u = D w."""
        y = jnp.where(usable, y, 0)
        slope = accurate_slope(self.activation, multiply(inputs.matrix, y) + inputs.drive)
        u = jnp.where(usable, slope, 0) * w
        return DenseInputs(
            matrix=matmul(u, y.T)[..., None],
            drive=u,
            # Where a search ends is no function of when.
            tolerance=jax.tree.map(jnp.zeros_like, inputs.tolerance),
        )
