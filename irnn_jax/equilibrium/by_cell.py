"""The equilibrium of a network that is solved as a cell (`irnn_jax/networks/cell_network.py`)."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike

from irnn_jax.activations import ActivationLike
from irnn_jax.equilibrium.fixed_point import fixed_point
from irnn_jax.equilibrium.record import Equilibrium, passed
from irnn_jax.implicit import AdjointReport
from irnn_jax.networks.cell_network import Activities, CellNetwork, functions_of
from irnn_jax.networks.time_constants import TimeConstants
from irnn_jax.xla.samples import are_finite, beside, kept


def equilibrium_by_cell(
    net: CellNetwork,
    x: ArrayLike,
    *,
    y0: Activities | None,
    time_constants: TimeConstants | None,
    activation: ActivationLike,
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
    x = x.reshape(-1, *net.input_shape).astype(dtype)
    start = _start(net, y0, batch, x)
    # A bad x times a masked cotangent of zero would still be NaN.
    finite = are_finite((x, start), 1)
    drive = net.drive(kept(finite, x))
    if probe is not None:
        probe = jax.tree.map(lambda leaf: leaf.reshape(-1), probe)
    if net.is_recurrent:
        found = fixed_point(
            lambda net, y, drive: net.step(y, drive, functions),
            net,
            jnp.where(beside(finite, drive), drive, jnp.nan),
            kept(finite, start),
            batched=True,
            time_constants=None if time_constants is None else tuple(time_constants),
            probe=probe,
            **how,
        )
    else:
        found = passed(net.feed_forward(drive, functions), finite, throw=how["throw"])
    # What has no input, or no start, has no state either.
    found = found._replace(activities=kept(finite, found.activities))
    return jax.tree.map(lambda leaf: leaf.reshape(batch + leaf.shape[1:]), found)


def _start(
    net: CellNetwork, y0: Activities | None, batch: tuple[int, ...], like: Array
) -> Activities:
    """Zeros, or what is given, (batch, *shape) of each layer."""
    if y0 is None:
        return tuple(jnp.zeros((len(like), *shape), like.dtype) for shape in net.state_shapes)
    return tuple(
        leaf.reshape(-1, *shape).astype(like.dtype)
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
