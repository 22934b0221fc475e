"""The equilibrium of a network, its activities and what is known about them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from irnn_jax.activations import Activation, ActivationLike, as_activation
from irnn_jax.equilibrium.by_cell import checked_start, equilibrium_by_cell
from irnn_jax.equilibrium.feed_forward import feed_forward
from irnn_jax.equilibrium.record import Equilibrium, adjoint_probe, as_equilibrium, passed
from irnn_jax.gradients import Exact, Gradient
from irnn_jax.gradients.forward_mode import forward_mode_explained
from irnn_jax.implicit import (
    AdjointFailure,
    AdjointReport,
    Method,
    asked_for,
    check_probe,
    solve_implicitly,
)
from irnn_jax.networks.cell_network import Activities, CellNetwork
from irnn_jax.networks.dense import (
    Network,
    NetworkLike,
    as_network,
    check_network,
    checked_input,
    connections,
    drive,
    split_layers,
)
from irnn_jax.networks.dense_kind import DenseInputs, DenseKind
from irnn_jax.networks.readout import read_out
from irnn_jax.networks.slowed import SlowedInputs, SlowedKind
from irnn_jax.networks.time_constants import TimeConstants, rates_of_layers
from irnn_jax.solvers import Auto, Solved, Solver
from irnn_jax.solvers.base import check_tolerance
from irnn_jax.status import Status
from irnn_jax.xla.max_norm import max_norm
from irnn_jax.xla.promotion import with_default_promotion


def equilibrium(
    net: NetworkLike,
    x: ArrayLike,
    *,
    y0: Activities | None = None,
    solver: Solver = Auto(),
    gradient: Gradient = Exact(),
    activation: ActivationLike = jax.nn.sigmoid,
    time_constants: TimeConstants | None = None,
    check_stability: bool = True,
    tolerance: ArrayLike | None = None,
    throw: bool = False,
    adjoint_failure: AdjointFailure = "warn",
    probe: AdjointReport | None = None,
) -> Equilibrium:
    """The equilibrium Y = f(A Y + b(x)) that the flow from Y = 0, or y0, reaches (eqs. 3, 7, 8).

    A sample that does not converge is flagged, keeps its last iterate and has a gradient of zero:
    NaN or Inf in one sample changes nothing for the others. A network without recurrent weights
    is evaluated layer by layer, with `solver` and `gradient` unused: both are exact there.

    Args:
        net: the network, from `init` or built by hand, or one with a parametrisation.
        x: (..., inputs), any number of leading axes; (..., height, width, channels) for a
            convolutional network.
        y0: where the flow starts, a tuple like `Equilibrium.activities`, for instance those of the
            frame before, or of the weights before an update; None: Y = 0. What is then followed is
            the flow from there: where there are several equilibria, a warm start stays with its
            own. It carries no gradient. A sample that starts from what is not a number is flagged.
        solver: how to reach the equilibrium; static under jit.
        gradient: how to differentiate it; static under jit.
        activation: f, smooth and elementwise, for instance `jnp.tanh`, or a tuple with one for each
            layer; static under jit.
        time_constants: tau of tau dY/dt = f(A Y + b) - Y: a tuple with one entry for each layer,
            each a positive number or (size,); None: all are one. Only their ratios matter. They
            move no equilibrium and no gradient, and decide which one is reached and whether it is
            stable; all times are in units of the smallest. May be traced; a gradient of zero.
        check_stability: an equilibrium that the flow would leave counts as not converged. With
            False it counts, where the flow was led to it (a tie), or the solver does not follow
            the flow.
        tolerance: largest residual that counts as converged, in place of the solver's; may be
            traced, so that runs under `jax.vmap` can each have their own.
        throw: raise (at run time) if a sample, or its adjoint, does not converge.
        adjoint_failure: the gradient of a converged sample whose adjoint does not converge (next to
            a fold, say): "zero"; "nan"; or "warn", zero with a `RuntimeWarning`, unless a `probe`
            reports it. JAX can neither export a program that may warn, nor keep it in its
            compilation cache: with a batch of any size, and with a cache, there is no warning.
        probe: see `adjoint_probe`, of shape (...).

    Raises:
        ValueError: x, the network, y0 or a time constant has the wrong shape or dtype, f is not
            elementwise or without a derivative, a tolerance or time constant is not positive; or a
            probe with `Exact(forward_mode=True)`.
        TypeError: under forward-mode differentiation without `Exact(forward_mode=True)`.
        RuntimeError: `throw`, and an equilibrium was not reached.
    """
    plain: Any = as_network(net)
    check_tolerance(tolerance)
    if isinstance(plain, CellNetwork):
        return equilibrium_by_cell(
            plain,
            x,
            y0=y0,
            time_constants=time_constants,
            solver=solver,
            gradient=gradient,
            activation=activation,
            check_stability=check_stability,
            tolerance=tolerance,
            throw=throw,
            adjoint_failure=adjoint_failure,
            probe=probe,
        )
    check_network(plain)
    x = checked_input(plain, x)
    sizes = plain.sizes[1:]
    kind = DenseKind(activation=as_activation(activation, sizes), sizes=sizes)
    rate = rates_of_layers(time_constants, sizes)
    start = None
    if y0 is not None:
        shapes = tuple((size,) for size in sizes)
        start = jnp.concatenate(checked_start(y0, shapes, x.shape[:-1]), axis=-1)
    check_probe(gradient, probe)
    method = Method(
        kind=kind if rate is None else SlowedKind(kind=kind),
        solver=solver,
        gradient=gradient,
        throw=throw,
        stable=check_stability,
        adjoint_failure=asked_for(adjoint_failure, probe),
    )
    if probe is None:
        probe = adjoint_probe(x.shape[:-1], jnp.result_type(x, *jax.tree.leaves(plain)))
    with forward_mode_explained():
        return _of_any_batch(method, plain, x, probe, tolerance, start, rate)


def _of_any_batch(
    method: Method,
    net: Network,
    x: Array,
    probe: AdjointReport,
    tolerance: ArrayLike | None,
    start: Array | None,
    rate: Array | None,
) -> Equilibrium:
    """Of an empty batch nothing, by way of one sample: loops and pivots want at least one."""
    axes = [
        axis for axis in range(x.ndim - 1) if isinstance(size := x.shape[axis], int) and not size
    ]
    if not axes:
        return _equilibrium(method, net, x, probe, tolerance, start, rate)

    def padded(leaf: Array) -> Array:
        return jnp.pad(leaf, [(0, int(axis in axes)) for axis in range(leaf.ndim)])

    probe, start = jax.tree.map(padded, (probe, start))
    found = _equilibrium(method, net, padded(x), probe, tolerance, start, rate)
    shape = x.shape[:-1]

    def nothing(leaf: Array) -> Array:
        return leaf[tuple(slice(0, size) for size in shape)]

    return jax.tree.map(nothing, found)


def apply(
    net: NetworkLike,
    x: ArrayLike,
    *,
    y0: Activities | None = None,
    solver: Solver = Auto(),
    gradient: Gradient = Exact(),
    activation: ActivationLike = jax.nn.sigmoid,
    time_constants: TimeConstants | None = None,
    check_stability: bool = True,
    tolerance: ArrayLike | None = None,
    throw: bool = False,
    adjoint_failure: AdjointFailure = "warn",
    probe: AdjointReport | None = None,
) -> Array:
    """The output layer's activities at equilibrium: x (..., inputs) -> (..., outputs).

    Of a network with a read-out (`with_readout`) what that makes of them.

    See `equilibrium` for the arguments, and for how to tell whether a sample converged.
    """
    result = equilibrium(
        net,
        x,
        y0=y0,
        solver=solver,
        gradient=gradient,
        activation=activation,
        time_constants=time_constants,
        check_stability=check_stability,
        tolerance=tolerance,
        throw=throw,
        adjoint_failure=adjoint_failure,
        probe=probe,
    )
    return read_out(net, result.activities)


@functools.partial(jax.jit, static_argnames="method")
@with_default_promotion
def _equilibrium(
    method: Method,
    net: Network,
    x: Float[Array, "*batch inputs"],
    probe: AdjointReport,
    tolerance: Float[Array, ""] | None,
    start: Float[Array, "*batch n"] | None,
    rate: Float[Array, " n"] | None,
) -> Equilibrium:
    batch_shape = x.shape[:-1]
    # Half precision has too few digits for a linear solve: solved, and returned, in float32.
    dtype = jnp.promote_types(jnp.result_type(x, *jax.tree.leaves(net)), jnp.float32)
    x = x.reshape(-1, x.shape[-1]).astype(dtype)
    # dL/dQ sums u x^T over the batch: a bad x times a masked u of zero would still be NaN.
    finite = max_norm(x, axis=-1) < jnp.inf
    x = jnp.where(finite[:, None], x, 0)
    if net.is_recurrent:
        solved = _solve(method, net, x, finite, probe, tolerance, start, rate)
        flat = as_equilibrium(solved, split_layers(net, solved.state), throw=method.throw)
    else:
        flat = passed(feed_forward(net, x, _activation(method)), finite, throw=method.throw)
    return jax.tree.map(lambda leaf: leaf.reshape(batch_shape + leaf.shape[1:]), flat)


def _solve(
    method: Method,
    net: Network,
    x: Float[Array, "batch inputs"],
    finite: Bool[Array, " batch"],
    probe: AdjointReport,
    tolerance: Float[Array, ""] | None,
    start: Float[Array, "*batch n"] | None,
    rate: Float[Array, " n"] | None,
) -> Solved:
    """By the one rule, with samples first, (batch, n) and (batch,)."""
    dtype = x.dtype
    b = drive(net, x)
    # A drive of NaN has no equilibrium. Solving for zero in its place keeps NaN out of the loop's
    # derivatives, where a masked cotangent would still meet it as 0 * NaN.
    valid = finite & ~jnp.any(jnp.isnan(b), axis=-1)
    y0 = jnp.zeros_like(b)
    if start is not None:
        y0 = start.reshape(b.shape).astype(dtype)
        valid = valid & jnp.all(jnp.isfinite(y0), axis=-1)
        y0 = jnp.where(valid[:, None], y0, 0)
    b = jnp.where(valid[:, None], b, 0)
    if tolerance is not None:
        tolerance = jnp.broadcast_to(jnp.asarray(tolerance, dtype), (1, x.shape[0]))
    matrix = connections(net, dtype)[..., None]
    inputs: Any = DenseInputs(matrix=matrix, drive=b.T, tolerance=tolerance)
    if rate is not None:
        inputs = SlowedInputs(inputs, rate.astype(dtype)[:, None])
    probe = jax.tree.map(lambda leaf: leaf.reshape(-1).astype(dtype), probe)
    solved = solve_implicitly(method, inputs, y0.T, probe)
    solved = jax.tree.map(lambda leaf: leaf[0], solved._replace(state=solved.state.T[None]))
    return solved._replace(
        state=jnp.where(valid[:, None], solved.state, 0),
        residual=jnp.where(valid, solved.residual, jnp.inf),
        status=jnp.where(valid, solved.status, Status.NON_FINITE),
    )


def _activation(method: Method) -> Activation:
    kind: Any = method.kind
    return kind.activation
