"""diffrax: the flow to its steady state, with ImplicitAdjoint or backpropagated through.

As its steady-state example has it: integrate to infinity, stop by `steady_state_event`. The
controller's tolerances are those of the equilibrium, since with looser ones an explicit method
hovers about it at the size of its local error.
"""

import functools

import diffrax
import jax
import jax.numpy as jnp

from benchmarks.peers.base import JaxContender, each


def _velocity(t, y, args):
    del t
    matrix, b = args
    return jax.nn.sigmoid(matrix @ y + b) - y


def _steady_state(matrix, b, tolerance, *, solver, adjoint):
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(_velocity),
        solver,
        t0=0.0,
        t1=jnp.inf,
        dt0=None,
        y0=jnp.zeros_like(b),
        args=(matrix, b),
        stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
        event=diffrax.Event(diffrax.steady_state_event(rtol=tolerance, atol=tolerance)),
        adjoint=adjoint,
        max_steps=4096,
        throw=False,
    )
    assert solution.ys is not None
    return solution.ys[-1]


def _contender(name, solver, adjoint, **options):
    solve = functools.partial(_steady_state, solver=solver, adjoint=adjoint)
    return JaxContender(name=name, library="diffrax", activities=each(solve), **options)


CONTENDERS = (
    _contender(
        "diffrax Tsit5, ImplicitAdjoint",
        diffrax.Tsit5(),
        diffrax.ImplicitAdjoint(),
        dense=True,
        samples=200,
    ),
    _contender(
        "diffrax Kvaerno5, ImplicitAdjoint",
        diffrax.Kvaerno5(),
        diffrax.ImplicitAdjoint(),
        dense=True,
        heavy=True,
        samples=20,
    ),
    _contender(
        "diffrax Tsit5, backpropagated",
        diffrax.Tsit5(),
        diffrax.RecursiveCheckpointAdjoint(),
        forward=False,
        heavy=True,
    ),
)
