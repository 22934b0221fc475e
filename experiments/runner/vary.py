"""Numbers varied side by side: every point of a grid with every seed is one lane of one program.

`vary: {optimizer.learning_rate: [0.003, 0.01], penalty: [0, 0.001]}` in a configuration trains all
four combinations from the same seeds. What cannot be traced (sizes, solvers, gradients) needs one
program each: Hydra's --multirun.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray
from omegaconf import DictConfig, ListConfig

import irnn_jax as irnn
from experiments.report.settings import points
from experiments.runner.errors import BadConfig
from experiments.runner.making import make
from experiments.runner.networks import activation_of, draw

Numbers = Mapping[str, Any]  # of one lane, or with leaves (lanes,), by their keys in the config

# What a step takes as traced scalars; each key is read in `trainer`, and nowhere else.
OPTIMIZER = "optimizer."
TOLERANCE = "solver.tolerance"
TRACED = ("penalty", TOLERANCE)


class Varied(NamedTuple):
    """An optimiser's state with the lane's own numbers, so that they travel with the lane."""

    numbers: Any
    inner: Any


class Trainer(NamedTuple):
    """`init(key, numbers)` -> the state before the first step; `step` as `irnn_jax` makes it."""

    init: Callable[..., irnn.TrainState]
    step: Callable[[irnn.TrainState, Any], tuple[irnn.TrainState, irnn.Metrics]]
    solver: Any
    activation: Any


def trainer(
    config: DictConfig, network: DictConfig, loss: Callable[..., Any], sizes: tuple[int, ...]
) -> Trainer:
    """The training of one network of an experiment, with the numbers of each lane filled in."""
    solver, gradient = make(config.solver), make(network.gradient)
    guard = None if config.guard is None else make(config.guard)
    activation = activation_of(config)

    def optimizer_with(numbers: Numbers) -> Any:
        own = {k.removeprefix(OPTIMIZER): v for k, v in numbers.items() if k.startswith(OPTIMIZER)}
        return make(config.optimizer, own)

    def step_with(numbers: Numbers) -> Any:
        return irnn.make_train_step(
            loss,
            optimizer_with(numbers),
            solver=solver,
            gradient=gradient,
            activation=activation,
            guard=guard,
            tolerance=numbers.get(TOLERANCE),
            penalty=numbers.get("penalty", config.penalty),
        )

    def init(key: PRNGKeyArray, numbers: Numbers | None = None) -> irnn.TrainState:
        net = draw(config, network, key, sizes)
        state = irnn.TrainState.create(net, optimizer_with(numbers or {}))
        if not numbers:
            return state
        return state._replace(opt_state=Varied(dict(numbers), state.opt_state))

    def varied_step(state: irnn.TrainState, batch: Any) -> tuple[irnn.TrainState, irnn.Metrics]:
        own: Any = state.opt_state
        numbers, inner = own
        state, metrics = step_with(numbers)(state._replace(opt_state=inner), batch)
        return state._replace(opt_state=Varied(numbers, state.opt_state)), metrics

    grid(config)  # complains of a bad `vary` before anything is compiled
    step = varied_step if config.vary else step_with({})
    return Trainer(init=init, step=step, solver=solver, activation=activation)


def grid(config: DictConfig) -> list[dict[str, float]]:
    """The points of `vary`, checked; one empty point if nothing is varied."""
    if not isinstance(config.vary or {}, Mapping):
        raise BadConfig(f"vary must be null or lists of numbers by their keys, got {config.vary}")
    for key, values in (config.vary or {}).items():
        _check(config, str(key), values)
    return points(config.vary)


def lanes(config: DictConfig, num_runs: int) -> tuple[PRNGKeyArray, dict[str, Array]]:
    """The key and the numbers of each lane, (points * runs,): the same keys for every point."""
    places = grid(config)
    keys = jax.random.split(jax.random.key(config.seed), num_runs)
    numbers = {
        key: jnp.repeat(jnp.array([point[key] for point in places]), num_runs) for key in places[0]
    }
    return keys[jnp.arange(len(places) * num_runs) % num_runs], numbers


def _check(config: DictConfig, key: str, given: Any) -> None:
    if not key.startswith(OPTIMIZER) and key not in TRACED:
        raise BadConfig(
            f"vary: {key} cannot vary inside one run, only {OPTIMIZER}* and {', '.join(TRACED)}; "
            f"try --multirun {key}=..."
        )
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, DictConfig) or part not in node:
            raise BadConfig(f"vary: there is no {key} in the configuration (see --cfg job)")
        node = node[part]
    if isinstance(node, DictConfig):
        raise BadConfig(f"vary: {key} is no number; vary one of {', '.join(map(str, node))}")
    values = list(given) if isinstance(given, ListConfig) else []
    numbers = [v for v in values if isinstance(v, int | float) and math.isfinite(v) and v >= 0]
    if not values or len(numbers) < len(values):
        raise BadConfig(f"vary: {key} needs a list of numbers of at least 0, got {given}")
    if key == TOLERANCE and 0 in values:
        raise BadConfig(f"vary: {key} must be positive, got {given}")
