"""optimistix: fixed-point iteration and Newton's method, with its implicit adjoint.

One sample is one problem, batched by `jax.vmap`, as its documentation does; the adjoint solves
directly by default, or by GMRES, which is what it offers where the matrix would be too large.
"""

import functools

import jax
import jax.numpy as jnp
import lineax as lx
import optimistix as optx

from benchmarks.peers.base import MAX_ITERATIONS, JaxContender, each


def _map(y, args):
    matrix, b = args
    return jax.nn.sigmoid(matrix @ y + b)


def _gmres(tolerance):
    return optx.ImplicitAdjoint(linear_solver=lx.GMRES(rtol=tolerance, atol=tolerance, restart=40))


def _fixed_point(matrix, b, tolerance, *, direct):
    return optx.fixed_point(
        _map,
        optx.FixedPointIteration(rtol=tolerance, atol=tolerance),
        jnp.zeros_like(b),
        args=(matrix, b),
        max_steps=MAX_ITERATIONS,
        adjoint=optx.ImplicitAdjoint() if direct else _gmres(tolerance),
        throw=False,
    ).value


def _newton(matrix, b, tolerance):
    return optx.root_find(
        lambda y, args: _map(y, args) - y,
        optx.Newton(rtol=tolerance, atol=tolerance),
        jnp.zeros_like(b),
        args=(matrix, b),
        max_steps=MAX_ITERATIONS,
        throw=False,
    ).value


CONTENDERS = (
    JaxContender(
        name="optimistix FixedPoint, LU adjoint",
        library="optimistix",
        activities=each(functools.partial(_fixed_point, direct=True)),
        dense=True,
    ),
    JaxContender(
        name="optimistix FixedPoint, GMRES adjoint",
        library="optimistix",
        activities=each(functools.partial(_fixed_point, direct=False)),
        forward=False,
    ),
    JaxContender(
        name="optimistix Newton", library="optimistix", activities=each(_newton), dense=True
    ),
)
