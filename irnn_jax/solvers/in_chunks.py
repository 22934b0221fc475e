"""Large batches, a part of them at a time, so that the slowest sample keeps few others waiting."""

import dataclasses
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array

from irnn_jax.problem import DenseProblem, Problem, State
from irnn_jax.solvers.base import Solved, Solver, check_positive
from irnn_jax.solvers.mixed_precision import MixedPrecision
from irnn_jax.solvers.pseudo_transient import PseudoTransient


@dataclasses.dataclass(frozen=True, kw_only=True)
class InChunks:
    """Solve a large batch in chunks that fit the processor's cache, the slow samples last.

    A batch is stepped until its slowest sample rests, and among many thousands one takes ten times
    as long as most. So all samples get `first_steps` steps; those that took them all are queued,
    and solved again, from the start, by themselves. What each of them ends at is what `solver`
    would give it in one batch.

    For evaluation on a CPU: a GPU wants large batches, and `Unrolled` gradients are not skipped.

    Attributes:
        solver: `PseudoTransient` or `MixedPrecision`.
        width: samples in a chunk.
        first_steps: the steps that all samples get.
    """

    solver: Any = PseudoTransient()
    width: int = 64
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
        count, width = y0.shape[1], self.width
        num_chunks = -(-count // width)
        problem, y0 = jax.tree.map(lambda leaf: _filled_up(leaf, num_chunks * width), (problem, y0))
        limited = self.solver.limited_to(self.first_steps)
        lane = jnp.arange(width, dtype=jnp.int32)

        def first(chunk: Array, carry: tuple[Solved, Array, Array]) -> tuple[Solved, Array, Array]:
            found, queue, waiting = carry
            start = chunk * width
            part_of_problem, part_of_y0 = jax.tree.map(
                lambda leaf: _part(leaf, start, width), (problem, y0)
            )
            part = limited.solve(part_of_problem, part_of_y0, adjoint)
            found = jax.tree.map(lambda all_, one: _with_part(all_, one, start), found, part)
            slow = ~part.finished
            # How many slow ones come before each; of so few, faster than a cumulative sum.
            earlier = slow[None] & (lane[None] < lane[:, None])
            place = jnp.where(slow, waiting + _count(earlier), queue.size)
            queue = queue.at[place].set(start + lane, mode="drop")
            return found, queue, waiting + _count(slow)

        def second(chunk: Array, found: Solved) -> Solved:
            index = _part(queue, chunk * width, width)
            part = self.solver.solve(problem.at_samples(index), y0[:, index], adjoint)
            return jax.tree.map(lambda all_, one: all_.at[..., index].set(one), found, part)

        one_chunk = jax.tree.map(lambda leaf: _part(leaf, 0, width), (problem, y0))
        like = jax.eval_shape(lambda part: limited.solve(*part, adjoint), one_chunk)
        found = jax.tree.map(
            lambda leaf: jnp.zeros((*leaf.shape[:-1], num_chunks * width), leaf.dtype), like
        )
        queue, none = jnp.zeros(num_chunks * width, jnp.int32), jnp.int32(0)
        found, queue, waiting = jax.lax.fori_loop(
            none, jnp.int32(num_chunks), first, (found, queue, none)
        )
        # What the last of the slow chunks is filled up with is the batch's first sample.
        found = jax.lax.fori_loop(none, -(-waiting // width), second, found)
        return jax.tree.map(lambda leaf: leaf[..., :count], found)


def _count(condition: Array) -> Array:
    return jnp.sum(condition, axis=-1, dtype=jnp.int32)


def _filled_up(leaf: Array, size: int) -> Array:
    """With copies of the last sample, unless there is one for all."""
    missing = size - leaf.shape[-1]
    if leaf.shape[-1] == 1 or not missing:
        return leaf
    return jnp.concatenate([leaf, jnp.repeat(leaf[..., -1:], missing, axis=-1)], axis=-1)


def _part(leaf: Array, start: Array | int, width: int) -> Array:
    """`width` samples from `start` on, unless there is one for all."""
    if leaf.shape[-1] == 1:
        return leaf
    return jax.lax.dynamic_slice_in_dim(leaf, start, width, axis=-1)


def _with_part(leaf: Array, part: Array, start: Array) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(leaf, part, start, axis=-1)
