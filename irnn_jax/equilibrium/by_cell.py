"""The equilibrium of a network that is solved as a cell (`irnn_jax/networks/cell_network.py`)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, ArrayLike

from irnn_jax.activations import ActivationLike
from irnn_jax.equilibrium.fixed_point import fixed_point
from irnn_jax.equilibrium.record import Equilibrium
from irnn_jax.implicit import AdjointReport
from irnn_jax.networks.cell_network import Activities, CellNetwork, functions_of
from irnn_jax.networks.time_constants import TimeConstants
from irnn_jax.solvers import Solver
from irnn_jax.status import Status


def equilibrium_by_cell(
    net: CellNetwork,
    x: ArrayLike,
    *,
    y0: Activities | None,
    time_constants: TimeConstants | None,
    solver: Solver,
    activation: ActivationLike,
    tolerance: ArrayLike | None,
    probe: AdjointReport | None,
    **how: Any,
) -> Equilibrium:
    """As `irnn_jax.equilibrium`, whose arguments these are: x (..., *input_shape)."""
    net.check()
    x = net.checked_input(x)
    functions = functions_of(activation, len(net.state_shapes))
    batch = x.shape[: x.ndim - len(net.input_shape)]
    # Half precision has too few digits for a linear solve: solved, and returned, in float32.
    dtype = jnp.promote_types(jnp.result_type(x, *jax.tree.leaves(net)), jnp.float32)
    drive, finite = checked_drive(net, x.reshape(-1, *net.input_shape).astype(dtype))
    if probe is not None:
        probe = jax.tree.map(lambda leaf: leaf.reshape(-1), probe)
    if net.is_recurrent:
        found = fixed_point(
            lambda net, y, drive: net.step(y, drive, functions),
            net,
            jnp.where(_of_sample(finite, drive), drive, jnp.nan),
            _start(net, y0, batch, drive),
            batched=True,
            time_constants=None if time_constants is None else tuple(time_constants),
            solver=_with_tolerance(solver, tolerance),
            probe=probe,
            **how,
        )
    else:
        found = _passed(net.feed_forward(drive, functions), finite)
    # What has no input has no state either.
    activities = jax.tree.map(
        lambda leaf: jnp.where(_of_sample(finite, leaf), leaf, 0), found.activities
    )
    found = found._replace(activities=activities)
    return jax.tree.map(lambda leaf: leaf.reshape(batch + leaf.shape[1:]), found)


def checked_drive(net: CellNetwork, x: Array) -> tuple[Array, Array]:
    """The drive of a batch (batch, *input_shape), and which samples are numbers.

    A bad x times a masked cotangent of zero would still be NaN: it is taken for zero.
    """
    finite = jnp.all(jnp.isfinite(x), axis=tuple(range(1, x.ndim)))
    return net.drive(jnp.where(_of_sample(finite, x), x, 0)), finite


def _of_sample(flags: Array, like: Array) -> Array:
    return flags.reshape(flags.shape + (1,) * (like.ndim - 1))


def _start(
    net: CellNetwork, y0: Activities | None, batch: tuple[int, ...], drive: Array
) -> Activities:
    """Zeros, or what is given, (batch, *shape) of each layer."""
    if y0 is None:
        return tuple(jnp.zeros((drive.shape[0], *shape), drive.dtype) for shape in net.state_shapes)
    return tuple(
        leaf.reshape(-1, *shape).astype(drive.dtype)
        for leaf, shape in zip(
            checked_start(y0, net.state_shapes, batch), net.state_shapes, strict=True
        )
    )


def checked_start(
    y0: Any, shapes: tuple[tuple[int, ...], ...], batch: tuple[int, ...]
) -> tuple[Array, ...]:
    """`y0` as arrays (*batch, *shape), one a layer, or a ValueError in the caller's words."""
    if not isinstance(y0, tuple | list) or len(y0) != len(shapes):
        what = f"{len(y0)} entries" if isinstance(y0, tuple | list) else f"a {type(y0).__name__}"
        raise ValueError(
            f"y0 has {what}, but the network has {len(shapes)} layers: pass a tuple like "
            "Equilibrium.activities"
        )
    leaves = tuple(map(jnp.asarray, y0))
    for i, (leaf, shape) in enumerate(zip(leaves, shapes, strict=True)):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(f"y0[{i}] has dtype {leaf.dtype}, but a state is floating-point")
        if leaf.shape != (*batch, *shape):
            raise ValueError(
                f"y0[{i}] has shape {leaf.shape}, but {(*batch, *shape)} fits x and the layer"
            )
    return leaves


def _with_tolerance(solver: Solver, tolerance: ArrayLike | None) -> Solver:
    """The solver with another tolerance, which is static here."""
    if tolerance is None:
        return solver
    if isinstance(tolerance, Tracer):
        raise ValueError("tolerance is traced, but this kind of network takes a number")
    changed: Any = dataclasses.replace(solver, tolerance=float(tolerance))  # pyright: ignore
    return changed


def _passed(activities: Activities, finite: Array) -> Equilibrium:
    """One pass is the equilibrium itself."""
    for leaf in activities:
        finite = finite & jnp.all(jnp.isfinite(leaf), axis=tuple(range(1, leaf.ndim)))
    dtype = activities[0].dtype
    return Equilibrium(
        activities=activities,
        residual=jnp.where(finite, 0, jnp.inf).astype(dtype),
        num_steps=jnp.zeros(finite.shape, jnp.int32),
        converged=finite,
        status=jnp.where(finite, Status.CONVERGED, Status.NON_FINITE).astype(jnp.int32),
        sensitivity=jnp.ones(finite.shape, dtype),
    )
