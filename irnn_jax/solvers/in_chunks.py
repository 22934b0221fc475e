"""Large batches, a part of them at a time, so that the slowest sample keeps few others waiting."""

import dataclasses
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from irnn_jax.problem import DenseProblem, Problem, State
from irnn_jax.solvers.base import Solved, Solver, check_positive
from irnn_jax.solvers.mixed_precision import MixedPrecision
from irnn_jax.solvers.pseudo_transient import PseudoTransient


class Queue(NamedTuple):
    """The samples that wait, first come first served: (capacity,), of which `length` are in use."""

    samples: Int[Array, " capacity"]
    length: Int[Array, ""]


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
    first_steps: int = 10

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
        lane = jnp.arange(width, dtype=jnp.int32)

        def queued(queue: Queue, index: Array, slow: Array) -> Queue:
            """With the slow ones of a chunk at its end."""
            # How many slow ones come before each; of so few, faster than a cumulative sum.
            earlier = slow[None] & (lane[None] < lane[:, None])
            place = jnp.where(slow, queue.length + _count(earlier), count)
            samples = queue.samples.at[place].set(index, mode="drop")
            return Queue(samples, queue.length + _count(slow))

        def in_order(number: Array, carry: tuple[Solved, Queue]) -> tuple[Solved, Queue]:
            found, queue = carry
            # The last chunk begins within the one before it.
            start = jnp.minimum(number * width, count - width)
            chunk = jax.tree.map(lambda leaf: _slice(leaf, start, width), (problem, y0))
            part = quick.solve(*chunk, adjoint)
            found = jax.tree.map(
                lambda all_, one: jax.lax.dynamic_update_slice_in_dim(all_, one, start, -1),
                found,
                part,
            )
            index = start + lane
            return found, queued(queue, index, ~part.finished & (index >= number * width))

        def from_queue(solver: PseudoTransient | MixedPrecision, found: Solved, waiting: Queue):
            def chunk(number: Array, carry: tuple[Solved, Queue]) -> tuple[Solved, Queue]:
                found, queue = carry
                # The last chunk is filled up with the batch's first sample.
                place = number * width + lane
                index = jnp.where(
                    place < waiting.length, waiting.samples.at[place].get(mode="clip"), 0
                )
                part = solver.solve(problem.at_samples(index), y0[:, index], adjoint)
                found = jax.tree.map(lambda all_, one: all_.at[..., index].set(one), found, part)
                return found, queued(queue, index, ~part.finished & (place < waiting.length))

            return jax.lax.fori_loop(none, -(-waiting.length // width), chunk, (found, empty))

        quick = self.solver.limited_to(self.first_steps)
        like = jax.eval_shape(lambda: quick.solve(problem, y0, adjoint))
        found = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
        none = jnp.int32(0)
        empty = Queue(jnp.zeros(count, jnp.int32), none)
        found, queue = jax.lax.fori_loop(none, -(-count // width), in_order, (found, empty))
        # Few need many steps, and the few without an equilibrium all of them: another limit on the
        # way keeps these from making the others of their chunk wait.
        for solver in (self.solver.limited_to(4 * self.first_steps), self.solver):
            found, queue = from_queue(solver, found, queue)
        return found


def _slice(leaf: Array, start: Array, width: int) -> Array:
    """`width` samples from `start` on, unless there is one for all."""
    if leaf.shape[-1] == 1:
        return leaf
    return jax.lax.dynamic_slice_in_dim(leaf, start, width, axis=-1)


def _count(condition: Array) -> Array:
    return jnp.sum(condition, axis=-1, dtype=jnp.int32)
