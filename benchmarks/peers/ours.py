"""This library, each solver and gradient that makes sense: a new one is a line in `VARIANTS`."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import irnn_jax as irnn
from benchmarks.peers.base import MAX_ITERATIONS, JaxContender

# name: (solver for a tolerance, or None for the library's default solver; gradient; what the
# suite has to know about it)
Variant = tuple[Callable[[float], Any] | None, Any, dict[str, Any]]

VARIANTS: dict[str, Variant] = {
    "default": (None, irnn.Exact(), {}),
    "Auto": (
        lambda tolerance: irnn.Auto(tolerance=tolerance),
        irnn.Exact(),
        {},
    ),
    "semi-gradient": (None, irnn.SemiGradient(), {"forward": False}),
    "PseudoTransient": (
        lambda tolerance: irnn.PseudoTransient(tolerance=tolerance),
        irnn.Exact(),
        {"dense": True},
    ),
    "Picard": (
        lambda tolerance: irnn.Picard(tolerance=tolerance, max_steps=MAX_ITERATIONS),
        irnn.Exact(),
        {"dense": True},
    ),
    "MixedPrecision": (
        lambda tolerance: irnn.MixedPrecision(solver=irnn.PseudoTransient(tolerance=tolerance)),
        irnn.Exact(),
        {"dense": True},
    ),
    "InChunks": (
        lambda tolerance: irnn.InChunks(solver=irnn.PseudoTransient(tolerance=tolerance)),
        irnn.Exact(),
        {"dense": True},
    ),
    "Exponential": (
        lambda tolerance: irnn.Exponential(tolerance=tolerance),
        irnn.Exact(),
        {},
    ),
    "NewtonKrylov": (
        lambda tolerance: irnn.NewtonKrylov(tolerance=tolerance),
        irnn.Exact(),
        {},
    ),
    "Anderson": (
        lambda tolerance: irnn.Anderson(tolerance=tolerance, max_steps=MAX_ITERATIONS),
        irnn.Exact(),
        {},
    ),
    "Flow": (
        lambda tolerance: irnn.Flow(tolerance=tolerance, max_steps=4096),
        irnn.Exact(),
        {"dense": True, "heavy": True, "samples": 200},
    ),
    "PseudoTransient, unrolled": (
        lambda tolerance: irnn.PseudoTransient(tolerance=tolerance, max_steps=64),
        irnn.Unrolled(),
        {"dense": True, "forward": False, "heavy": True},
    ),
}

DEFAULT = "irnn_jax default"
TWIN = "feed-forward twin"
STEP = "irnn_jax default, its own training step"
TWIN_STEP = "feed-forward twin, own training step"


def _activities(net, x, tolerance, *, solver, gradient):
    # The library's default is timed as a user gets it, which includes its default tolerance.
    options = {} if solver is None else {"solver": solver(tolerance)}
    result = irnn.equilibrium(net, x, gradient=gradient, **options)
    return jnp.concatenate(result.activities, axis=-1)


def _contender(name, variant, **options):
    solver, gradient, known = variant
    return JaxContender(
        name=name,
        library="irnn_jax",
        activities=functools.partial(_activities, solver=solver, gradient=gradient),
        **(known | options),
    )


def _picard30(net, x, tolerance):
    """Thirty plain iterations, whatever they reach: the floor of an iterative net's cost."""
    del tolerance
    from irnn_jax.networks.dense import connections, drive

    matrix, b = connections(net, x.dtype), drive(net, x)
    step = lambda _, y: jax.nn.sigmoid(y @ matrix.T + b)  # noqa: E731
    return jax.lax.fori_loop(0, 30, step, jnp.zeros_like(b))


CONTENDERS = (
    _contender(TWIN, VARIANTS["default"], recurrent=False, forward=False),
    _contender(
        TWIN_STEP,
        VARIANTS["default"],
        recurrent=False,
        forward=False,
        own_step=irnn.make_train_step,
    ),
    _contender(STEP, VARIANTS["default"], forward=False, own_step=irnn.make_train_step),
    *(_contender(f"irnn_jax {name}", variant) for name, variant in VARIANTS.items()),
)
PICARD30 = JaxContender(
    name="Picard, 30 iterations", library="jax", activities=_picard30, has_gradient=False
)
