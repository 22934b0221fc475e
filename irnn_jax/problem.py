"""The one idea that carries the library: a batch of fixed points Y = g(Y; x), with products.

    value(Y)                         g(Y; x) of every sample
    linearise(Y) -> J v, J^T w       products with the Jacobian of every sample at Y

That is all a kind of problem must have (`irnn_jax/networks/`). What it can do faster, by a matrix
that can be factorised or a proof that it contracts, are methods with a default here, by products
alone. Solvers and gradients ask for them and never for the kind.

States have two axes, of which `layout` says which one the neurons have; what there is one of for
each sample keeps an axis of length one for the neurons.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from irnn_jax.iterations.near import Near, accelerate, iterate_plainly, merged
from irnn_jax.linalg.layout import Layout
from irnn_jax.linalg.spectrum import unstable_by_products
from irnn_jax.linearisation import DampedSystem, Linearisation, ProductSystem
from irnn_jax.xla.conditional import run_if
from irnn_jax.xla.loops import Loop

State = Float[Array, "*state"]
Numbers = Float[Array, "*numbers"]
Flags = Bool[Array, "*numbers"]


class Coarse(NamedTuple):
    """A map as it is fastest to evaluate, in single precision or laid out otherwise.

    Attributes:
        function: y -> g(y).
        state: where it begins.
        layout: of these states.
        turned: these states as the problem has them, and back.
    """

    function: Callable[[State], State]
    state: State
    layout: Layout
    turned: Callable[[State], State]


class Problem(eqx.Module):
    """A batch of fixed-point problems Y = value(Y).

    `tolerance` is the largest residual that counts as converged, of each sample; None: the
    solver's. `contracts` says of each sample whether it is known to have one equilibrium only;
    None: of none. `scale` is the size of the state before it moves, which a residual is relative
    to: residuals of firing rates in Hz are a thousand times those in kHz. `factorises` says whether
    a Newton step costs about as little as a few products.
    """

    layout: ClassVar[Layout]
    tolerance: eqx.AbstractVar[Numbers | None]
    contracts: eqx.AbstractVar[Flags | None]
    scale: eqx.AbstractVar[Numbers | None]

    @property
    def factorises(self) -> bool:
        """Here not: nothing but products."""
        return False

    @property
    def is_direct(self) -> bool:
        """Whether a Newton step is a factorisation at all."""
        return False

    @property
    def is_arithmetic(self) -> bool:
        """Whether a step is arithmetic on a handful of neurons, without a library's product."""
        return False

    @property
    def slowest(self) -> float | Numbers:
        """The rate of the slowest neuron, of each sample, in units of the fastest one's."""
        return 1.0

    @property
    def timeless(self) -> "Problem":
        """The problem with the same equilibria whose neurons all have one time constant."""
        return self

    def begun(self, y0: State) -> "Problem":
        """The same, with its scale."""
        if self.scale is not None:
            return self
        size = jax.lax.stop_gradient(
            jnp.maximum(self.layout.size(y0), self.layout.size(self.value(y0)))
        )
        return dataclasses.replace(self, scale=size)

    def scale_at(self, y: State) -> float | Numbers:
        """What a residual at Y is relative to, of each sample."""
        size = jax.lax.stop_gradient(self.layout.size(y))
        return size if self.scale is None else jnp.maximum(size, self.scale.astype(size.dtype))

    @abc.abstractmethod
    def value(self, y: State) -> State:
        """g(Y)."""

    @abc.abstractmethod
    def linearise(self, y: State) -> Linearisation:
        """J at Y."""

    def value_and_slope(self, y: State) -> tuple[State, Array]:
        """g(Y), and what `damped` wants to know there: here nothing."""
        return self.value(y), jnp.zeros((), y.dtype)

    def damped(self, y: State, slope: Array, damping: Numbers) -> DampedSystem:
        """(1 + damping) I - J, in the precision of the state.

        Its own accuracy only affects the number of steps: the outer iteration judges itself by the
        true residual, so an inexact step is an inexact Newton step and never a wrong answer.
        """
        del slope
        return ProductSystem(
            linear=self.linearise(y),
            scale=(1 + damping).astype(y.dtype),
            accuracy=self.linear_accuracy(y.dtype),
        )

    def linear_accuracy(self, dtype: Any) -> float:
        """Relative error that the solves of `damped` leave, in units of 1/rate.

        eps^(1/4): two such solves a step leave eps^(1/2) of the distance to the equilibrium.
        """
        return float(jnp.finfo(dtype).eps) ** 0.25

    def first_evaluations(
        self, y: State, tolerance: float | Numbers, loop: Loop
    ) -> tuple[State, Array, State, Numbers, Numbers]:
        """Y, the slope and F there, max|F|, and what the way there left: a continuation's start.

        A kind that can prove a contraction may go some of the way by the map itself.
        """
        del tolerance, loop
        value, slope = self.value_and_slope(y)
        velocity = value - y
        size = self.layout.size(velocity)
        return y, slope, velocity, size, jnp.full(size.shape, jnp.inf, jnp.float32)

    def coarse(self, y: State) -> Coarse:
        """G as the flow is followed: where steps err by a hundredth, it need not be exact."""
        return Coarse(self.value, y, self.layout, lambda states: states)

    def settle(
        self, y: State, going: Flags, tolerance: float | Numbers, loop: Loop, shared: Any
    ) -> tuple[Near, Any]:
        """From Y, near an equilibrium that attracts, to it, for the samples that are `going`.

        `shared` is what the chunk before has left for the next one. Plainly while that is fast, and
        what is left is accelerated.
        """
        found, done = iterate_plainly(self.value, y, going, tolerance, self.layout, loop)

        def more(found: Near, y: State, left: Flags) -> Near:
            return merged(
                found, accelerate(self.value, found.state, left, tolerance, self.layout, loop), left
            )

        return loop.run_if(going & ~done, more, found, y, going & ~done), shared

    def unstable(self, y: State, asked: Flags) -> Flags:
        """Of the equilibria Y of the samples that are asked about, those that the flow leaves."""
        if self.contracts is not None:
            asked = asked & ~self.contracts

        def find(asked: Flags, problem: Problem, y: State) -> Flags:
            return problem.find_unstable(y, asked)

        return run_if(jnp.any(asked), find, asked, self, y)

    def find_unstable(self, y: State, asked: Flags, rate: State | None = None) -> Flags:
        """The same, with nothing known. By products alone that is an estimate.

        `rate` is r of a flow dY/dt = r (g(Y) - Y), one for each neuron.
        """
        product = self.linearise(y).product(False)

        def jacobian(v: State) -> State:
            return product(v) if rate is None else v + rate * (product(v) - v)

        return unstable_by_products(jacobian, y, asked, self.layout)

    def completed(self, solved: Any, tolerance: Any, loop: Loop) -> Any:
        """The record of a solve, with the residual of g: here as it is."""
        del tolerance, loop
        return solved

    def solve_in_chunks(
        self, solve: Callable[["Problem", State, Any], tuple[Any, Any]], y0: State, loop: Loop
    ) -> Any:
        """What `solve(problem, y0, shared) -> (shared, found)` finds, where it pays chunk by chunk.

        `shared` is what `settle` returns beside what it found; None at first.
        """
        del loop
        return solve(self, y0, None)[1]

    def run_for(self, work: Callable[..., Any], needed: Flags, state: Any, *given: Any) -> Any:
        """`work(state, *given)` for the samples that need it; it keeps the state of the others."""
        del needed
        return work(state, *given)

    def each_sample(self) -> tuple["Problem", Any] | None:
        """The problem, and the `in_axes` with which `jax.vmap` goes through its samples.

        None where it cannot: the batch is then one system, of samples that do not meet.
        """
        return None

    def unproven(self) -> "Problem":
        """The same, with nothing known of a contraction."""
        return self

    def at_samples(self, index: Array) -> "Problem":
        """The problems of these samples, of a batch that lies last."""
        raise TypeError(f"{type(self).__name__} does not part its samples")

    def in_precision(self, dtype: Any) -> "Problem | None":
        """The same in another precision, converged to its `default_tolerance`.

        None: it cannot be had; a cell decides about its own.
        """
        del dtype
        return None


def default_tolerance(dtype: Any) -> float:
    """eps^(3/4): 1.8e-12 in float64, 6.4e-6 in float32.

    Above the rounding of f(A Y + b) for weights of order 30 and rows of hundreds, and small
    enough for Newton's last step to leave an error near rounding.
    """
    return float(jnp.finfo(dtype).eps) ** 0.75
