"""Large batches, a part of them at a time, so that the slowest sample keeps few others waiting."""

import dataclasses
from typing import Any

import diffrax
import jax
import jax.numpy as jnp

from irnn_jax.problem import DenseProblem, Problem, State
from irnn_jax.solvers.base import Solved, Solver, check_positive
from irnn_jax.solvers.mixed_precision import MixedPrecision
from irnn_jax.solvers.pseudo_transient import PseudoTransient


@dataclasses.dataclass(frozen=True, kw_only=True)
class InChunks:
    """Solve a large batch in chunks that fit the processor's cache, the slow samples last.

    A batch is stepped until its slowest sample rests, and among many thousands one takes ten times
    as long as most. So all samples get `first_steps` steps; those that took them all are gathered
    and solved again, from the start, by themselves. What each of them ends at is what `solver`
    would give it in one batch.

    For evaluation on a CPU: a GPU wants large batches, and `Unrolled` gradients are not skipped.

    Attributes:
        solver: `PseudoTransient` or `MixedPrecision`.
        width: samples in a chunk.
        first_steps: the steps that all samples get.
    """

    solver: Any = PseudoTransient()
    width: int = 256
    first_steps: int = 8

    def __post_init__(self):
        check_positive(width=self.width, first_steps=self.first_steps)
        if not isinstance(self.solver, PseudoTransient | MixedPrecision):
            raise ValueError(
                f"solver must be a PseudoTransient or a MixedPrecision, got {self.solver!r}"
            )

    @property
    def tolerance(self) -> float | None:
        """The solver's own."""
        return self.solver.tolerance

    def more_cautious(self) -> Solver:
        """That of the solver."""
        return self.solver.more_cautious()

    def solve(self, problem: Problem, y0: State, adjoint: diffrax.AbstractAdjoint) -> Solved:
        """Iterate from y0."""
        skips = isinstance(adjoint, diffrax.ForwardMode)
        large = y0.ndim == 2 and y0.shape[1] > self.width
        if not isinstance(problem, DenseProblem) or not skips or not large:
            return self.solver.solve(problem, y0, adjoint)
        count = y0.shape[1]
        num_chunks = -(-count // self.width)
        padding = num_chunks * self.width - count
        limited = self.solver.limited_to(self.first_steps)

        def chunk(solver: PseudoTransient | MixedPrecision, index: jax.Array) -> Solved:
            return solver.solve(problem.at_samples(index), y0[:, index], adjoint)

        # The last chunk is filled up with the last sample.
        places = jnp.minimum(jnp.arange(count + padding), count - 1).reshape(num_chunks, -1)
        chunks = jax.lax.map(lambda index: chunk(limited, index), places)
        quick = _join(chunks, count)
        slow = ~quick.finished
        # Slow samples first: the chunks after the last of them are left as they are.
        order = jnp.argsort(~slow, stable=True)

        def again(k: jax.Array, found: Solved) -> Solved:
            part = chunk(self.solver, order[places[k]])
            return jax.tree.map(lambda all_, one: all_.at[k].set(one), found, part)

        needed = -(-jnp.sum(slow) // self.width)
        second = _join(jax.lax.fori_loop(0, needed, again, chunks), count)
        rank = jnp.argsort(order)
        return jax.tree.map(lambda one, two: jnp.where(slow, two[..., rank], one), quick, second)


def _join(chunks: Solved, count: int) -> Solved:
    """Leaves (chunks, ..., width) to (..., samples)."""
    return jax.tree.map(
        lambda leaf: jnp.moveaxis(leaf, 0, -2).reshape(*leaf.shape[1:-1], -1)[..., :count], chunks
    )
