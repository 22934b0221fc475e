"""Y = cell(params, Y, x), by products alone: a cell of a whole batch, samples first, (batch, n)."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from irnn_jax.linalg.by_products import solve_by_products
from irnn_jax.linalg.layout import SAMPLES_FIRST, Layout
from irnn_jax.linearisation import Linearisation
from irnn_jax.problem import Problem
from irnn_jax.xla.convolutions import canonical
from irnn_jax.xla.promotion import with_default_promotion
from irnn_jax.xla.rewrite import operations

State = Float[Array, "batch n"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StateShape:
    """How a batch of states, a pytree, becomes (batch, n); hashable."""

    treedef: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]

    @classmethod
    def of(cls, state: Any, *, batch_axes: int) -> "StateShape":
        """Of a pytree, whose first `batch_axes` axes are the batch's."""
        leaves, treedef = jax.tree.flatten(state)
        return cls(
            treedef=treedef,
            shapes=tuple(leaf.shape[batch_axes:] for leaf in leaves),
            dtypes=tuple(leaf.dtype for leaf in leaves),
        )

    @property
    def num_neurons(self) -> int:
        """Numbers in the state of one sample."""
        return sum(map(math.prod, self.shapes))

    def flatten(self, state: Any, batch: tuple[int, ...]) -> Array:
        """A pytree of (*batch, ...) -> (*batch, n), in the dtype of all leaves together."""
        leaves = [
            jnp.asarray(leaf).reshape(*batch, math.prod(shape))
            for leaf, shape in zip(jax.tree.leaves(state), self.shapes, strict=True)
        ]
        dtype = jnp.result_type(*self.dtypes)
        leaves = [leaf.astype(dtype) for leaf in leaves]
        return leaves[0] if len(leaves) == 1 else jnp.concatenate(leaves, axis=-1)

    def unflatten(self, flat: Array) -> Any:
        """(*batch, n) -> the pytree of (*batch, ...)."""
        batch = flat.shape[:-1]
        ends = itertools.accumulate(map(math.prod, self.shapes[:-1]))
        parts = jnp.split(flat, list(ends), axis=-1) if len(self.shapes) > 1 else [flat]
        leaves = [
            part.reshape(*batch, *shape).astype(dtype)
            for part, shape, dtype in zip(parts, self.shapes, self.dtypes, strict=True)
        ]
        return self.treedef.unflatten(leaves)


class CellInputs(NamedTuple):
    """The numbers of a cell.

    Attributes:
        params: a pytree of the cell's own.
        x: the samples, a pytree.
        tolerance: of each sample, (batch, 1), or None for the solver's.
    """

    params: Any
    x: Any
    tolerance: Float[Array, "batch 1"] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class CellKind:
    """What a cell is, apart from its numbers; hashable, so that a program can be found again.

    Attributes:
        cell: (inputs, state, x) -> state, of pytrees.
        shape: of the state of one sample.
        batched: whether the cell takes a whole batch; else the batch is of one sample.
        joins: whether what `jax.vmap` adds is joined with the batch, which has no reverse mode.
    """

    cell: Callable[[Any, Any, Any], Any]
    shape: StateShape
    batched: bool
    joins: bool = True
    layout: ClassVar[Layout] = SAMPLES_FIRST

    def problem(self, inputs: CellInputs) -> "CellProblem":
        """With these numbers."""
        return CellProblem(inputs=inputs, kind=self, tolerance=self.tolerance(inputs))

    def tolerance(self, inputs: CellInputs) -> Float[Array, "batch 1"] | None:
        """The samples' own, if they have one."""
        return inputs.tolerance

    def lay_out(self, solve: Callable[..., Any]) -> Callable[..., Any]:
        """What `jax.vmap` adds becomes a part of the batch."""
        return _joining(self, solve) if self.joins else functools.partial(solve, self)

    def flat(self, inputs: CellInputs, y: State) -> State:
        """The cell on flat states."""
        batch = y.shape[:1] if self.batched else ()
        state = self.shape.unflatten(y if self.batched else y[0])
        out = self.cell(inputs.params, state, inputs.x)
        return self.shape.flatten(out, batch).reshape(y.shape).astype(y.dtype)

    def cotangents(self, inputs: CellInputs, y: State, w: State, usable: Array) -> CellInputs:
        """(dg/d inputs)^T w, of the usable samples alone."""
        inputs, y = self.without_failed(inputs, y, usable)
        gradients = jax.vjp(lambda inputs: self.flat(inputs, y), inputs)[1](w)[0]
        # Where no sample can be used, what is not a number has nothing to stand in for it.
        some = jnp.any(usable)
        return jax.tree.map(
            lambda g: g if g.dtype == jax.dtypes.float0 else jnp.where(some, g, jnp.zeros_like(g)),
            gradients,
        )

    def without_failed(
        self, inputs: CellInputs, y: State, usable: Array
    ) -> tuple[CellInputs, State]:
        """With the first usable sample in place of each that failed.

        A masked adjoint would still meet the NaN of a bad sample as 0 * NaN.
        """
        if not self.batched:
            ok = usable[0, 0]
            return jax.tree.map(lambda leaf: _held(ok, leaf), inputs), jnp.where(ok, y, 0)
        good = jnp.argmax(usable[:, 0])

        def replaced(leaf: Array) -> Array:
            flags = usable[:, 0].reshape(-1, *(1,) * (leaf.ndim - 1))
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                return leaf
            return jnp.where(flags, leaf, leaf[good])

        return inputs._replace(x=jax.tree.map(replaced, inputs.x)), replaced(y)


@dataclasses.dataclass(frozen=True)
class VmappedKind:
    """Cells that `jax.vmap` has made of one: a batch of all their samples.

    Attributes:
        inner: the cell.
        axes: the axis of each leaf of the inputs along which they differ, or None.
        size: how many cells.
    """

    inner: Any
    axes: tuple[int | None, ...]
    size: int

    def problem(self, inputs: Any) -> "CellProblem":
        """With these numbers."""
        return CellProblem(inputs=inputs, kind=self, tolerance=self.tolerance(inputs))

    def tolerance(self, inputs: Any) -> Float[Array, "batch 1"] | None:
        """Those of each cell, one after the other."""

        def of_one(inputs: Any, number: Array) -> Any:
            del number  # there may be nothing else in which they differ
            return self.inner.tolerance(inputs)

        found = jax.vmap(of_one, (self._axes(inputs), 0))(inputs, jnp.arange(self.size))
        return None if found is None else found.reshape(-1, 1)

    def _axes(self, inputs: Any) -> Any:
        return jax.tree.unflatten(jax.tree.structure(inputs), self.axes)

    def flat(self, inputs: Any, y: State) -> State:
        """Each cell on its own samples."""
        axes = self._axes(inputs)
        parted = y.reshape(self.size, -1, y.shape[-1])
        return jax.vmap(self.inner.flat, (axes, 0))(inputs, parted).reshape(y.shape)


def _joining(kind: Any, solve: Callable[..., Any]) -> Callable[..., Any]:
    """`(inputs, y0) -> solve(kind, inputs, y0)`, with a rule for `jax.vmap` that joins batches."""

    @jax.custom_batching.custom_vmap
    def run(inputs: Any, y0: State) -> Any:
        return solve(kind, inputs, y0)

    @run.def_vmap
    @with_default_promotion
    def rule(size: int, in_batched: Any, inputs: Any, y0: Float[Array, "*added batch n"]):
        if size == 0:
            return _of_none(functools.partial(solve, kind), in_batched, (inputs, y0))
        axes = tuple(0 if added else None for added in jax.tree.leaves(in_batched[0]))
        y0 = y0 if in_batched[1] else jnp.broadcast_to(y0, (size, *y0.shape))
        joined = VmappedKind(kind, axes, size)
        found = _joining(joined, solve)(inputs, y0.reshape(-1, y0.shape[-1]))
        found = jax.tree.map(lambda leaf: leaf.reshape(size, -1, leaf.shape[-1]), found)
        return found, jax.tree.map(lambda _: True, found)

    return run


def _of_none(solve: Callable[..., Any], in_batched: Any, arguments: Any) -> tuple[Any, Any]:
    """What is found of no cells: empty arrays of the right shapes."""

    def of_one(leaf: Array, added: bool) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape[1:] if added else leaf.shape, leaf.dtype)

    like = jax.eval_shape(solve, *jax.tree.map(of_one, arguments, tuple(in_batched)))
    found = jax.tree.map(lambda leaf: jnp.zeros((0, *leaf.shape), leaf.dtype), like)
    return found, jax.tree.map(lambda _: True, found)


class CellProblem(Problem):
    """A cell with its numbers."""

    inputs: Any
    kind: CellKind | VmappedKind = eqx.field(static=True)
    layout: ClassVar[Layout] = SAMPLES_FIRST
    tolerance: Float[Array, "batch 1"] | None = None
    contracts: Bool[Array, "batch 1"] | None = None
    scale: Float[Array, "batch 1"] | None = None

    def value(self, y: State) -> State:
        """cell(params, Y, x)."""
        return canonical(lambda y: self.kind.flat(self.inputs, y), y)(y)

    def linearise(self, y: State) -> "CellLinearisation":
        """J at Y, by the cell's own derivatives."""
        return CellLinearisation(inputs=self.inputs, y=y, kind=self.kind)


class CellLinearisation(Linearisation):
    """Products with the Jacobian of a cell at Y."""

    inputs: Any
    y: State
    kind: CellKind | VmappedKind = eqx.field(static=True)
    layout: ClassVar[Layout] = SAMPLES_FIRST

    def solve(self, rhs: State, transposed: bool) -> State:
        """By products, what `jax.vmap` adds becoming a part of the batch."""
        solve = functools.partial(_solve_by_products, transposed)
        return _joining(self.kind, solve)(self.inputs, jnp.concatenate([self.y, rhs], axis=1))

    def product(self, transposed: bool) -> Callable[[State], State]:
        """J v of v, or J^T w of w."""

        def flat(y: State) -> State:
            return self.kind.flat(self.inputs, y)

        backward = transposed or "custom_vjp_call" in operations(jax.make_jaxpr(flat)(self.y).jaxpr)
        if not backward:
            return canonical(jax.linearize(flat, self.y)[1], self.y)
        _, pullback = jax.vjp(flat, self.y)
        if transposed:
            return canonical(lambda w: pullback(w)[0], self.y)
        # A cell that has no forward mode: J is the transpose of J^T, which is linear in w, so that
        # its own pullback is J at any w.
        _, push = jax.vjp(lambda w: pullback(w)[0], jnp.zeros_like(self.y))
        return canonical(lambda v: push(v)[0], self.y)


def _solve_by_products(transposed: bool, kind: Any, inputs: Any, states: Array) -> Array:
    """By products, of y and the right-hand side in one array."""
    y, rhs = jnp.split(states, 2, axis=1)
    linear = CellLinearisation(inputs=inputs, y=y, kind=kind)
    return solve_by_products(linear.product(transposed), rhs, linear.layout)


def _held(usable: Array, leaf: Array) -> Array:
    """The same, and a constant where the sample failed."""
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return leaf
    return jnp.where(usable, leaf, jax.lax.stop_gradient(leaf))
