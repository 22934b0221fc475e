"""Large batches, a part of them at a time, so that the slowest sample keeps few others waiting."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from irnn_jax.problem import Problem, State
from irnn_jax.solvers.base import Solved, check_positive, solved_at
from irnn_jax.solvers.growth import Growth
from irnn_jax.solvers.pseudo_transient import Progress, PseudoTransient
from irnn_jax.solvers.rodas3 import iterate
from irnn_jax.xla.chunks import map_chunks
from irnn_jax.xla.loops import Loop


class Queue(NamedTuple):
    """The samples that wait, first come first served: (capacity,), of which `length` are in use."""

    samples: Int[Array, " capacity"]
    length: Int[Array, ""]


class Parked(NamedTuple):
    """What is kept of samples between their chunks: enough to go on as if nothing had happened."""

    state: State
    growth: Growth
    remaining: Float[Array, "*numbers"]
    time: Float[Array, "*numbers"]
    step_size: Float[Array, "*numbers"]
    followed: Float[Array, "*numbers"]
    num_steps: Float[Array, "*numbers"]
    residual: Float[Array, "*numbers"]
    finished: Bool[Array, "*numbers"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class InChunks:
    """Solve a large batch in chunks that fit the processor's cache, the slow samples last.

    A batch is stepped until its slowest sample rests, and among many thousands one takes ten times
    as long as most. So all samples get `first_steps` steps; those that want more are gathered in
    chunks of their own, get a third as many again, and so on, up to the solver's `max_steps`. Each
    goes on where it stopped, and ends where `solver` would bring it in one batch.

    For evaluation on a CPU: a GPU wants large batches, and `Unrolled` gradients are not skipped.

    Attributes:
        solver: pseudo-transient continuation.
        width: samples in a chunk.
        first_steps: the steps that all samples get.
    """

    solver: Any = PseudoTransient()
    width: int = 64
    first_steps: int = 7

    def __post_init__(self):
        check_positive(width=self.width, first_steps=self.first_steps)
        if not isinstance(self.solver, PseudoTransient):
            raise ValueError(f"solver must be a PseudoTransient, got {self.solver!r}")

    @property
    def tolerance(self) -> float | None:
        """The solver's own."""
        return self.solver.tolerance

    def first_step_sizes(self, problem: Problem, y0: State) -> Float[Array, "*numbers"]:
        """Those of the solver."""
        return self.solver.first_step_sizes(problem, y0)

    def solve(self, problem: Problem, y0: State, loop: Loop) -> Solved:
        """Step from y0 until every sample is at rest."""
        return self.proceed(problem, y0, self.first_step_sizes(problem, y0), loop)

    def proceed(
        self,
        problem: Problem,
        y0: State,
        first: Float[Array, "*numbers"],
        loop: Loop,
    ) -> Solved:
        """Step from y0 with a first step of each sample's own."""
        count = y0.shape[-1]
        large = y0.ndim == 2 and isinstance(count, int) and count > self.width
        # Only samples that lie last are cut out of their arrays as they lie.
        if problem.layout.neurons != 0 or not loop.skips or not large:
            return self.solver.proceed(problem, y0, first, loop)
        found = self._in_stages(problem, y0, first, loop)
        return solved_at(
            problem,
            found.state,
            num_steps=found.num_steps,
            time=found.time,
            finished=found.finished,
            residual=found.residual,
            error=found.growth.error(),
        )

    def _in_stages(
        self,
        problem: Problem,
        y0: Float[Array, "n samples"],
        first: Float[Array, "1 samples"],
        loop: Loop,
    ) -> Parked:
        """All samples in order, then those that are left, a stage after the other."""
        count, width, most = y0.shape[1], self.width, self.solver.max_steps
        lane = jnp.arange(width, dtype=jnp.int32)

        def advance(problem: Problem, start: Progress, until: Array) -> Parked:
            last = self.solver.advance(problem, start, loop, until.astype(first.dtype))
            return parked(last, finished=self.solver.ended(problem, last).finished)

        def in_order(queue: Queue, part: Any, seen: Array) -> tuple[Queue, Parked]:
            *begun, index = part
            ended = advance(begun[0], self.solver.begin(*begun, loop), limit)
            return queued(queue, index, ~ended.finished[0] & ~seen), ended

        def from_queue(carry: tuple[Array, Parked, Queue]) -> tuple[Array, Parked, Queue]:
            until, found, waiting = carry
            until = jnp.minimum(until + jnp.maximum(1, until // 3), most)

            def chunk(number: Array, carry: tuple[Parked, Queue]) -> tuple[Parked, Queue]:
                found, queue = carry
                # The last chunk is filled up with the last sample.
                place = number * width + lane
                index = waiting.samples[jnp.minimum(place, waiting.length - 1)]
                part = problem.at_samples(index)
                start = resumed(part, jax.tree.map(lambda leaf: leaf[..., index], found))
                ended = advance(part, start, until)
                found = scattered(found, ended, index)
                return found, queued(queue, index, ~ended.finished[0] & (place < waiting.length))

            chunks = -(-waiting.length // width)
            return until, *jax.lax.fori_loop(none, chunks, chunk, (found, empty))

        def unfinished(carry: tuple[Array, Parked, Queue]) -> Array:
            until, _, queue = carry
            return (until < most) & (queue.length > 0)

        none, limit = jnp.int32(0), jnp.int32(min(self.first_steps, most))
        empty = Queue(jnp.zeros(count + width, jnp.int32), none)
        batch = (problem, y0, first, jnp.arange(count, dtype=jnp.int32))
        queue, found = map_chunks(in_order, empty, batch, count=count, width=width)
        _, found, _ = jax.lax.while_loop(unfinished, from_queue, (limit, found, queue))
        return found


def scattered(all_: Parked, some: Parked, index: Int[Array, " width"]) -> Parked:
    """With some samples written where they belong."""

    def write(lane: Array, all_: Parked) -> Parked:
        def one(leaf: Array, of: Array) -> Array:
            column = jax.lax.dynamic_slice_in_dim(of, lane, 1, -1)
            return jax.lax.dynamic_update_slice_in_dim(leaf, column, index[lane], -1)

        return jax.tree.map(one, all_, some)

    # Not a scatter, which XLA would not compile into one function with the rest of the loop.
    return jax.lax.fori_loop(jnp.int32(0), jnp.int32(len(index)), write, all_)


def queued(queue: Queue, index: Int[Array, " width"], slow: Bool[Array, " width"]) -> Queue:
    """With the slow ones of a chunk at its end."""
    lane = jnp.arange(len(index), dtype=jnp.int32)
    # How many slow ones come before each; of so few, faster than a cumulative sum.
    earlier = slow[:, None] & (lane[:, None] < lane)
    # Not a scatter, which XLA would not compile into one function with the rest of the loop.
    moved = slow[:, None] & (_count(earlier)[:, None] == lane)
    packed = jnp.sum(jnp.where(moved, index[:, None], 0), axis=0, dtype=jnp.int32)
    samples = jax.lax.dynamic_update_slice(queue.samples, packed, (queue.length,))
    return Queue(samples, queue.length + _count(slow))


def parked(progress: Progress, finished: Bool[Array, "*numbers"]) -> Parked:
    """Without what `resumed` finds again from the state."""
    at = progress.at
    return Parked(
        state=at.state,
        growth=progress.growth,
        remaining=at.remaining,
        time=at.time,
        step_size=progress.step_size,
        followed=progress.followed,
        num_steps=progress.num_steps,
        residual=at.residual,
        finished=finished,
    )


def resumed(problem: Problem, parked: Parked) -> Progress:
    """Where the samples stood."""
    return Progress(
        at=iterate(problem, parked.state, remaining=parked.remaining, time=parked.time),
        growth=parked.growth,
        step_size=parked.step_size,
        followed=parked.followed,
        num_steps=parked.num_steps,
    )


def _count(condition: Array) -> Array:
    return jnp.sum(condition, axis=0, dtype=jnp.int32)
