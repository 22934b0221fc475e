"""The Jacobian of a batch by products, and the systems that a Newton step solves with it."""

import abc
import functools
from collections.abc import Callable
from typing import ClassVar, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from irnn_jax.linalg.by_products import solve_by_products
from irnn_jax.linalg.krylov import gmres
from irnn_jax.linalg.layout import Layout

State = Float[Array, "*state"]
Numbers = Float[Array, "*numbers"]
Flags = Bool[Array, "*numbers"]


class Linearisation(eqx.Module):
    """The Jacobian J of every sample at one state, by products; a pytree, differentiable."""

    layout: ClassVar[Layout]

    @property
    def depth(self) -> int:
        """Layers that the feed-forward part of J passes through: it is nilpotent of this index."""
        return 1

    @abc.abstractmethod
    def product(self, transposed: bool) -> Callable[[State], State]:
        """J v of v, or J^T w of w."""

    def feedforward_pullback(self, w: State) -> State:
        """J_Q^T w, J_Q the part of J through feed-forward weights; a cell's state has none."""
        return jnp.zeros_like(w)

    def solve(self, rhs: State, transposed: bool) -> State:
        """(I - J)^-1 rhs, or (I - J^T)^-1 rhs. Not trusted: its callers check the residual.

        By iteration: w <- rhs + J^T w while that is fast, then BiCGStab, then GMRES, each for what
        the one before has left.
        """
        return solve_by_products(self.product(transposed), rhs, self.layout)


@runtime_checkable
class DampedSystem(Protocol):
    """The matrices (1 + damping) I - J of a batch, for any number of solves with them.

    They are solved in float32, in less time and memory than in float64: what a solve leaves of a
    step is the next step's to find, by F in the precision of the state.

    `is_iterative` says whether a solve is a loop, of which a program should have one.
    """

    is_iterative: ClassVar[bool]

    def solve(self, rhs: State) -> State:
        """Solve ((1 + damping) I - J) x = rhs, in float32."""
        ...

    def determinant_is_positive(self) -> Flags:
        """Whether each matrix's determinant is positive; true when unknown.

        It is negative only if an odd number of real eigenvalues of J - I lie above `damping`.
        """
        ...


class ProductSystem(eqx.Module):
    """scale I - J, known by products: solved by GMRES."""

    linear: Linearisation
    scale: Numbers
    accuracy: float = eqx.field(static=True)
    is_iterative: ClassVar[bool] = True

    def solve(self, rhs: State) -> State:
        """Solve (scale I - J) x = rhs."""
        rhs = rhs.astype(self.scale.dtype)
        solved: State = _solve_damped(False, self.accuracy, self.linear, self.scale, rhs)
        return solved.astype(jnp.float32)

    def determinant_is_positive(self) -> Flags:
        """Nothing is known of the determinant."""
        return jnp.ones_like(self.scale, bool)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _solve_damped(
    transposed: bool, accuracy: float, linear: Linearisation, scale: Numbers, rhs: State
) -> State:
    """(scale I - J) x = rhs, or with J^T; it has the derivatives of the system alone."""
    return gmres(_damped(transposed, linear, scale), rhs, accuracy, linear.layout)


def _damped(transposed: bool, linear: Linearisation, scale: Numbers) -> Callable[[State], State]:
    product = linear.product(transposed)
    return lambda v: scale * v - product(v)


def _damped_forward(transposed, accuracy, linear, scale, rhs):
    solution = _solve_damped(transposed, accuracy, linear, scale, rhs)
    return solution, (linear, scale, solution)


def _damped_backward(transposed, accuracy, saved, cotangent: State):
    linear, scale, solution = saved
    bar: State = _solve_damped(not transposed, accuracy, linear, scale, cotangent)
    _, pullback = jax.vjp(lambda *of: -_damped(transposed, *of)(solution), linear, scale)
    return *pullback(bar), bar


_solve_damped.defvjp(_damped_forward, _damped_backward)
