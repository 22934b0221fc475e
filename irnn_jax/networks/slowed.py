"""Neurons with time constants of their own: tau dY/dt = g(Y) - Y, as a flow like any other.

In units of the smallest time constant, with r = min(tau)/tau in (0, 1],

    dY/dt = G(Y) - Y,    G(Y) = Y + r (g(Y) - Y),    J_G = I + r (J - I).

G has the fixed points of g. Which of them the flow reaches, and whether it stays, is a matter of r;
how far a state is from rest, and every gradient, is not, and is that of g.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from irnn_jax.linalg.layout import Layout
from irnn_jax.linearisation import DampedSystem, Linearisation
from irnn_jax.problem import Problem
from irnn_jax.xla.loops import Loop

State = Float[Array, "*state"]
Numbers = Float[Array, "*numbers"]
Flags = Bool[Array, "*numbers"]

# Newton steps at the end, where what is at rest in G is not in g: slow neurons hardly move.
LAST_STEPS = 6


class SlowedInputs(NamedTuple):
    """The numbers of a problem, and r of its neurons, which broadcasts with its states."""

    numbers: Any
    rate: State


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlowedKind:
    """Another kind of problem, whose neurons have time constants.

    `joins` as that of the kind itself, which it may only take back.
    """

    kind: Any
    joins: bool = True

    @property
    def activation(self) -> Any:
        """The network's."""
        return self.kind.activation

    def problem(self, inputs: SlowedInputs) -> "Slowed":
        """With these numbers."""
        inner = self.kind.problem(inputs.numbers)
        return Slowed(inner=inner, rate=inputs.rate)  # pyright: ignore[reportCallIssue]

    def lay_out(self, solve: Callable[..., Any]) -> Callable[..., Any]:
        """As the kind itself does it, with r beside the state where it begins."""
        kind = dataclasses.replace(self.kind, joins=self.kind.joins and self.joins)
        neurons = kind.layout.neurons

        def slowed(kind: Any, numbers: Any, states: Array) -> Any:
            y0, rate = jnp.split(states, 2, axis=neurons)
            return solve(SlowedKind(kind=kind), SlowedInputs(numbers, rate), y0)

        run = kind.lay_out(slowed)

        def laid_out(inputs: SlowedInputs, y0: State) -> Any:
            rate = jnp.broadcast_to(inputs.rate, y0.shape)
            return run(inputs.numbers, jnp.concatenate([y0, rate], axis=neurons))

        return laid_out

    def without_failed(
        self, inputs: SlowedInputs, y: State, usable: Array
    ) -> tuple[SlowedInputs, State]:
        """As the kind itself does it."""
        numbers, y = self.kind.without_failed(inputs.numbers, y, usable)
        return inputs._replace(numbers=numbers), y

    def cotangents(self, inputs: SlowedInputs, y: State, w: State, usable: Array) -> SlowedInputs:
        """Those of the kind itself. Where an equilibrium is does not depend on r."""
        numbers = self.kind.cotangents(inputs.numbers, y, w, usable)
        return SlowedInputs(numbers, jnp.zeros_like(inputs.rate))


class Slowed(Problem):
    """Y = G(Y) of another problem Y = g(Y)."""

    inner: Problem
    rate: State

    @property
    def layout(self) -> Layout:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The other problem's, like the rest of what is known of it."""
        return self.inner.layout

    @property
    def tolerance(self) -> Numbers | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Likewise."""
        return self.inner.tolerance

    @property
    def contracts(self) -> Flags | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Where L |A| < 1, sum_i tau_i (Y - Y*)_i^2 falls along the flow whatever tau is."""
        return self.inner.contracts

    @property
    def scale(self) -> Numbers | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Likewise."""
        return self.inner.scale

    @property
    def factorises(self) -> bool:
        """As far as it can: by products alone, slow neurons take many steps."""
        return self.inner.is_direct

    @property
    def slowest(self) -> Numbers:
        """The smallest r of each sample."""
        return 1 / self.layout.size(1 / self.rate)

    @property
    def timeless(self) -> Problem:
        """The other problem, which has the same equilibria."""
        return self.inner

    def begun(self, y0: State) -> "Slowed":
        """With its scale."""
        return dataclasses.replace(self, inner=self.inner.begun(y0))

    def scale_at(self, y: State) -> float | Numbers:
        """Likewise."""
        return self.inner.scale_at(y)

    def value(self, y: State) -> State:
        """G(Y)."""
        return y + self.rate * (self.inner.value(y) - y)

    def value_and_slope(self, y: State) -> tuple[State, Array]:
        """G(Y), and what the other problem wants to know."""
        value, slope = self.inner.value_and_slope(y)
        return y + self.rate * (value - y), slope

    def linearise(self, y: State) -> "SlowedLinearisation":
        """J_G at Y."""
        return SlowedLinearisation(inner=self.inner.linearise(y), rate=self.rate)

    def damped(self, y: State, slope: Array, damping: Numbers) -> DampedSystem:
        """(1 + damping) I - J_G = r ((1 + damping/r) I - J), with a damping for each neuron."""
        system = self.inner.damped(y, slope, damping / self.rate)
        slowed: Any = SlowedSystem(system=system, rate=self.rate, layout=self.layout)
        return slowed

    def linear_accuracy(self, dtype: Any) -> float:
        """That of the system within."""
        return self.inner.linear_accuracy(dtype)

    def find_unstable(self, y: State, asked: Flags, rate: State | None = None) -> Flags:
        """By J_G."""
        del rate
        return self.inner.find_unstable(y, asked, self.rate)

    def run_for(self, work: Callable[..., Any], needed: Flags, state: Any, *given: Any) -> Any:
        """As the other problem does it."""
        return self.inner.run_for(work, needed, state, *given)

    def each_sample(self) -> tuple["Slowed", Any] | None:
        """Likewise, through r too."""
        parted = self.inner.each_sample()
        if parted is None:
            return None
        inner, along = parted
        here = dataclasses.replace(self, inner=inner)
        every: Any = jax.tree.map(lambda _: -1, here)
        return here, eqx.tree_at(lambda p: p.inner, every, along)

    def unproven(self) -> "Slowed":
        """Likewise."""
        return dataclasses.replace(self, inner=self.inner.unproven())

    def at_samples(self, index: Int[Array, " samples"]) -> "Slowed":
        """Likewise."""
        rate = self.rate if self.rate.shape[-1] == 1 else self.rate[..., index]
        return dataclasses.replace(self, inner=self.inner.at_samples(index), rate=rate)

    def in_precision(self, dtype: Any) -> "Slowed | None":
        """Likewise."""
        inner = self.inner.in_precision(dtype)
        if inner is None:
            return None
        return dataclasses.replace(self, inner=inner, rate=self.rate.astype(dtype))

    def completed(self, solved: Any, tolerance: Any, loop: Loop) -> Any:
        """With the residual of g, and what is at rest in G but not yet in g brought there.

        By Newton's method, since g's own flow may lead elsewhere.
        """
        size, inner = self.layout.size, self.inner
        enough = tolerance * self.scale_at(solved.state)
        rests = solved.residual <= enough

        def going(at: tuple[State, Numbers, Numbers]) -> Flags:
            # NaN compares false; so does what a step has made no better.
            return rests & (at[1] > enough) & (at[1] < at[2])

        def advance(number: Array, at: tuple[State, Numbers, Numbers]) -> Any:
            del number
            y, before, _ = at
            value, slope = inner.value_and_slope(y)
            step = inner.damped(y, slope, jnp.zeros_like(before)).solve(value - y)
            new = y + step.astype(y.dtype)
            after = size(inner.value(new) - new)
            better = going(at) & jax.lax.stop_gradient(after < before)
            return jnp.where(better, new, y), jnp.where(better, after, before), before

        first = size(inner.value(solved.state) - solved.state)
        start = (solved.state, first, jnp.full_like(first, jnp.inf))
        state, residual, _ = loop.repeat(advance, start, going, LAST_STEPS)
        # What is not a number, r for one, has no answer.
        residual = jnp.where(jnp.isnan(solved.residual), solved.residual, residual)
        time = solved.time * self.slowest.astype(solved.time.dtype)
        return solved._replace(state=state, residual=residual, time=time)


class SlowedLinearisation(Linearisation):
    """J_G = I + r (J - I)."""

    inner: Linearisation
    rate: State

    @property
    def layout(self) -> Layout:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The other one's."""
        return self.inner.layout

    def product(self, transposed: bool) -> Callable[[State], State]:
        """J_G v, or J_G^T w."""
        product, rate = self.inner.product(transposed), self.rate
        if transposed:
            return lambda w: w + product(rate * w) - rate * w
        return lambda v: v + rate * (product(v) - v)


class SlowedSystem(eqx.Module):
    """r times another system."""

    system: DampedSystem
    rate: State
    layout: Layout = eqx.field(static=True)

    @property
    def is_iterative(self) -> bool:
        """As the other one."""
        return self.system.is_iterative

    def solve(self, rhs: State) -> State:
        """Solve r M x = rhs."""
        return self.system.solve(rhs / self.rate.astype(rhs.dtype))

    def determinant_is_positive(self) -> Flags:
        """All r are, and do not change the sign."""
        # Where nothing is known it has the shape of the damping, one for each neuron.
        return self.layout.all(self.system.determinant_is_positive())
