"""An identity that says, in words, that forward-mode differentiation stops here.

`jax.custom_vjp` has no forward-mode rule, and JAX's own message does not say what to use instead.
The guard is a `custom_jvp` identity whose tangent goes through a linear primitive: reverse mode
only ever transposes that primitive, forward mode has to evaluate it, and evaluating it raises.
Where JAX complains earlier, while it batches the tangents (`jax.jacfwd`), its message is replaced.
"""

import contextlib
from collections.abc import Iterator
from typing import TypeVar

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

T = TypeVar("T")

MESSAGE = (
    "forward-mode differentiation (jax.jvp, jax.jacfwd, jax.linearize, jax.hessian) goes through "
    "an equilibrium with gradient=irnn_jax.Exact(forward_mode=True) alone; every other derivative "
    "rule is reverse-mode. Use that, or jax.grad, jax.vjp or jax.jacrev, and "
    "jax.jacrev(jax.grad(loss)) for second derivatives"
)
CELL_MESSAGE = (
    "gradient=irnn_jax.Exact(forward_mode=True) takes derivatives of the cell in both modes, which "
    "a jax.custom_vjp in it does not allow here. Give an equilibrium inside of the cell "
    "forward_mode=True too, and a function of your own a jax.custom_jvp; or use irnn_jax.Exact(), "
    "with jax.grad, jax.vjp or jax.jacrev, and jax.jacrev(jax.grad(loss)) for second derivatives"
)

_tangent_p = Primitive("reverse_mode_only")


def _raise(*args: object, **kwargs: object):
    raise TypeError(MESSAGE)


_tangent_p.def_impl(_raise)
_tangent_p.def_abstract_eval(lambda tangent: tangent)
mlir.register_lowering(_tangent_p, _raise)
ad.deflinear2(_tangent_p, lambda cotangent, tangent: [cotangent])
batching.defvectorized(_tangent_p)


@jax.custom_jvp
def _identity(x: jax.Array) -> jax.Array:
    return x


@_identity.defjvp
def _identity_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]):
    return primals[0], _tangent_p.bind(tangents[0])


def reverse_mode_only(tree: T) -> T:
    """Return `tree` unchanged; forward-mode derivatives through it raise a TypeError."""

    def guard(leaf: jax.Array) -> jax.Array:
        differentiable = jax.numpy.issubdtype(jax.numpy.result_type(leaf), jax.numpy.inexact)
        return _identity(jax.numpy.asarray(leaf)) if differentiable else leaf

    return jax.tree.map(guard, tree)


@contextlib.contextmanager
def forward_mode_explained() -> Iterator[None]:
    """Replace what JAX says of forward mode through a `custom_vjp` by what to use instead."""
    try:
        yield
    except TypeError as error:
        if "forward-mode" in str(error) and not str(error).startswith((MESSAGE, CELL_MESSAGE)):
            raise TypeError(MESSAGE) from error
        raise


@contextlib.contextmanager
def both_modes_explained() -> Iterator[None]:
    """Replace what JAX says of a cell's `custom_vjp` that it cannot take forward, or transpose."""
    try:
        yield
    except (TypeError, NotImplementedError) as error:
        forward = isinstance(error, TypeError) and "forward-mode" in str(error)
        if forward or "'custom_vjp_call'" in str(error):
            raise TypeError(CELL_MESSAGE) from error
        raise
