"""jaxopt: fixed-point iteration and Anderson acceleration, with implicit differentiation.

Two ways each, since neither is always faster: one sample a problem under `jax.vmap`, its adjoint
by LU (small nets), and the whole batch as one problem, its adjoint by BiCGStab (wide nets; the
default, conjugate gradients on the normal equations, takes twice as long).
"""

import functools

import jax
import jax.numpy as jnp

from benchmarks.peers.base import MAX_ITERATIONS, JaxContender, each, stacked


def _map(y, matrix, b):
    return jax.nn.sigmoid(y @ matrix.T + b)


def _solve(matrix, b, tolerance, *, solver, direct):
    import jaxopt  # pyright: ignore[reportMissingImports]
    from jaxopt import linear_solve  # pyright: ignore[reportMissingImports]

    if direct:
        adjoint = linear_solve.solve_lu
    else:
        adjoint = functools.partial(linear_solve.solve_bicgstab, tol=tolerance)
    run = getattr(jaxopt, solver)(
        _map,
        maxiter=MAX_ITERATIONS,
        tol=tolerance,
        implicit_diff=True,
        implicit_diff_solve=adjoint,
    ).run
    return run(jnp.zeros_like(b), matrix, b).params


def _contenders(name, solver):
    vmapped = functools.partial(_solve, solver=solver, direct=True)
    batched = functools.partial(_solve, solver=solver, direct=False)
    return (
        JaxContender(
            name=f"jaxopt {name}, vmapped, LU adjoint",
            library="jaxopt",
            activities=each(vmapped),
            dense=True,
        ),
        JaxContender(
            name=f"jaxopt {name}, batched, BiCGStab adjoint",
            library="jaxopt",
            activities=stacked(batched),
        ),
    )


CONTENDERS = (
    *_contenders("FixedPoint", "FixedPointIteration"),
    *_contenders("Anderson", "AndersonAcceleration"),
)
