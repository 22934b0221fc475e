"""The training step: loss, gradient, update, and what is known about them."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from irnn_jax.activations import ActivationLike
from irnn_jax.gradients import Exact, Gradient
from irnn_jax.implicit import AdjointReport
from irnn_jax.networks.time_constants import TimeConstants
from irnn_jax.solvers import Auto, Solver
from irnn_jax.training.guard import Guard, GuardState
from irnn_jax.training.objective import Found, JacobianPenalty, Loss, Objective
from irnn_jax.training.solve import GivenSolve, NetworkSolve, OwnSolve

Batch = tuple[Any, Any]


class TrainState(NamedTuple):
    """All that a training run carries from step to step.

    Attributes:
        net: the parameters: a network of any kind, or what `solve` takes.
        opt_state: the optimiser's state.
        step: the number of steps taken, ().
        guard: what `Guard` remembers; None trains without it.
    """

    net: Any
    opt_state: optax.OptState
    step: Int[Array, ""]
    guard: GuardState | None = None

    @classmethod
    def create(cls, net: Any, optimizer: optax.GradientTransformation) -> "TrainState":
        """The state before the first step."""
        params: Any = net  # optax's type for parameters leaves out NamedTuples
        return cls(
            net=net,
            opt_state=optimizer.init(params),
            step=jnp.zeros((), jnp.int32),
            guard=GuardState.create(net),
        )


class Metrics(NamedTuple):
    """What one training step knows about itself, each ().

    Attributes:
        loss: mean over the samples that converged, 0 if none did.
        gradient_norm: Euclidean norm of the whole gradient.
        mean_steps: solver steps, mean over the batch.
        max_steps: solver steps of the slowest sample.
        converged: fraction of samples that reached an equilibrium; the others are left out of
            the loss and of the gradient.
        adjoint_residual: largest relative residual of the adjoint solves.
        adjoint_converged: fraction of the converged samples whose adjoint converged too; the
            others are left out of the gradient.
        applied: False if the gradient was not finite, which the step then took for zero, or if the
            parameters or the optimiser's state would not have been: these stayed as they were.
        rejected: True if the guard took the steps since its last look back.
        update_scale: the guard's factor on the optimiser's update.
        penalty: what the Jacobian penalty, times its weight, added to the loss that the gradient
            belongs to; 0 without one. It is not part of `loss`.
    """

    loss: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    mean_steps: Float[Array, ""]
    max_steps: Int[Array, ""]
    converged: Float[Array, ""]
    adjoint_residual: Float[Array, ""]
    adjoint_converged: Float[Array, ""]
    applied: Bool[Array, ""]
    rejected: Bool[Array, ""]
    update_scale: Float[Array, ""]
    penalty: Float[Array, ""]


Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def squared_error(output: Float[Array, "*outputs"], target: Float[Array, "*outputs"]) -> Array:
    """The mean squared error of one sample, the paper's loss."""
    return jnp.mean((output - target) ** 2)


def make_train_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    solve: OwnSolve | None = None,
    solver: Solver = Auto(),
    gradient: Gradient = Exact(),
    activation: ActivationLike = jax.nn.sigmoid,
    time_constants: TimeConstants | None = None,
    check_stability: bool = True,
    tolerance: ArrayLike | None = None,
    guard: Guard | None = Guard(),
    penalty: float | Array = 0.0,
) -> Step:
    """Build `step(state, (x, target)) -> (state, metrics)`, pure and jit-compiled.

    Args:
        loss: `loss(output, target)` of one sample -> a scalar, for instance `squared_error`. The
            step takes the mean over the samples that converged.
        optimizer: for instance `irnn_jax.adam(0.01)`; any optax transformation, those that ask
            for `value`, `grad` or `value_fn` included, for instance `optax.lbfgs`.
        solve: `solve(params, x, probe)` -> (output, `Equilibrium`), for a model that holds an
            equilibrium of any kind: a cell by `fixed_point`, a module of flax or equinox. `params`
            is a pytree of arrays, `x` one with the batch's axes first, and `probe` is passed on to
            `fixed_point` or `equilibrium`. None: `state.net` is a network. How it is solved is then
            said inside, and not by the arguments below.
        solver: how to reach the equilibrium, as in `irnn_jax.equilibrium`.
        gradient: how to differentiate it, likewise. The exact and the semi-gradient training
            differ in nothing else.
        activation: f, or one for each layer, likewise.
        time_constants: of the layers, likewise.
        check_stability: leave out samples at an unstable equilibrium, likewise.
        tolerance: in place of the solver's, likewise: a number or a traced scalar.
        guard: takes steps back that lost an equilibrium; None for the optimiser's steps alone.
        penalty: weight of the mean of ||D A||_F^2 / n over the same samples, which keeps the
            equilibria attracting (see `jacobian_penalty`); a number or a traced scalar. It is
            computed from the activities at hand, and not at all for the number 0.

    The step takes x (..., inputs) and a pytree of targets with the same leading axes. A sample
    whose equilibrium, input or target is not finite or not reached is left out of the loss and of
    the gradient, and counted. The parameters never become NaN.

    Raises:
        ValueError: `penalty` is a negative number, or something is said twice, with `solve` and
            beside it; `gradient` is `Exact(forward_mode=True)`, which has no report; (when the step
            is traced) `loss` does not return one number for a sample.
    """
    of_network = NetworkSolve(
        solver=solver,
        gradient=gradient,
        activation=activation,
        time_constants=time_constants,
        check_stability=check_stability,
        tolerance=tolerance,
    )
    if solve is not None and (said := of_network.differs_from(_DEFAULT)):
        raise ValueError(f"with solve=, say inside of it how it is solved, and not by {said[0]}=")
    penalised = JacobianPenalty(weight=penalty, activation=activation)
    if solve is not None and not penalised.is_nothing:
        raise ValueError(
            "penalty is known for networks only: with solve=, add "
            "irnn_jax.jacobian_penalty_estimate to the loss"
        )
    objective = Objective(
        loss=loss,
        solve=of_network if solve is None else GivenSolve(solve=solve),
        penalty=None if penalised.is_nothing else penalised,
    )
    return jax.jit(functools.partial(_step, objective, optimizer, guard))


_DEFAULT = NetworkSolve(
    solver=Auto(),
    gradient=Exact(),
    activation=jax.nn.sigmoid,
    time_constants=None,
    check_stability=True,
    tolerance=None,
)


def _step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    guard: Guard | None,
    state: TrainState,
    batch: Batch,
) -> tuple[TrainState, Metrics]:
    x, target = batch
    x = jax.tree.map(jnp.asarray, x)
    found, report, grads = objective.gradient_of_batch(state.net, x, target)
    grads, norm, applied = _finite_or_zero(grads)
    params: Any = state.net
    losses = functools.partial(objective.usable_losses, x=x, target=target)
    update = optax.with_extra_args_support(optimizer).update
    updates, opt_state = update(
        grads,
        state.opt_state,
        params,
        # What line searches and schedules by the loss ask for; to others it is nothing.
        value=found.loss + found.penalty,
        grad=grads,
        value_fn=lambda net: objective.of_batch(net, objective.solve.probe(net, x), x, target)[0],
    )
    net, guard_state, rejected, scale = _move(objective, state, updates, guard, losses)
    # An optimiser may divide zero by zero, for instance Adam without its eps.
    finite = _all_finite((net, opt_state))
    net, opt_state = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old), (net, opt_state), (params, state.opt_state)
    )
    applied = applied & finite
    metrics = _metrics(
        found,
        report,
        gradient_norm=norm,
        applied=applied,
        rejected=rejected,
        update_scale=scale,
    )
    step = state.step + 1
    return TrainState(net=net, opt_state=opt_state, step=step, guard=guard_state), metrics


def _finite_or_zero(grads: Any) -> tuple[Any, Float[Array, ""], Bool[Array, ""]]:
    """The gradient, its norm, and whether it is finite; if not, it is zero."""
    norm = optax.tree.norm(grads)
    # A finite norm has finite squares, so that Adam's second moment stays finite too.
    applied = jnp.isfinite(norm)
    return jax.tree.map(lambda g: jnp.where(applied, g, 0), grads), norm, applied


def _all_finite(tree: Any) -> Bool[Array, ""]:
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return functools.reduce(jnp.logical_and, [jnp.all(jnp.isfinite(leaf)) for leaf in leaves])


def _metrics(found: Found, report: AdjointReport, **update: Array) -> Metrics:
    """From what the objective and the adjoint solves tell, and the fields about the update."""
    value, added, result, usable = found
    attempted = jnp.maximum(jnp.sum(usable), 1).astype(report.failed.dtype)
    return Metrics(
        loss=value,
        mean_steps=_mean(result.num_steps).astype(value.dtype),
        max_steps=jnp.max(result.num_steps, initial=0),
        converged=_mean(usable).astype(value.dtype),
        adjoint_residual=jnp.max(report.residual, initial=0),
        adjoint_converged=1 - jnp.sum(report.failed) / attempted,
        penalty=added,
        **update,
    )


def _move(
    objective: Objective,
    state: TrainState,
    updates: Any,
    guard: Guard | None,
    losses: Callable[[Any], tuple[Array, Array]],
) -> tuple[Any, GuardState | None, Bool[Array, ""], Float[Array, ""]]:
    """The parameters after an update, the guard's state, whether it rejected, and its scale."""
    params: Any = state.net
    if guard is None or state.guard is None or not objective.solve.can_lose_equilibria(params):
        net: Any = optax.apply_updates(params, updates)
        one = jnp.ones((), jnp.result_type(*jax.tree.leaves(params)))
        return net, state.guard, jnp.zeros((), bool), one
    scale = state.guard.scale
    updates = jax.tree.map(lambda update: scale.astype(update.dtype) * update, updates)
    net = optax.apply_updates(params, updates)
    return *guard.look(state.guard, net, state.step + 1, losses), scale


def _mean(values: Array) -> Array:
    """The mean, 0 of nothing."""
    return jnp.sum(values) / max(values.size, 1)
