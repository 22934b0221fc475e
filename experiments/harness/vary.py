"""Numbers varied side by side: every point of a grid with every seed is one lane of one program.

`vary: {optimizer.learning_rate: [0.003, 0.01], penalty: [0, 0.001]}` in a configuration trains all
four combinations from the same seeds. What cannot be traced (sizes, solvers, gradients) needs one
program each: Hydra's --multirun.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray
from omegaconf import DictConfig, ListConfig

import irnn_jax as irnn
from experiments.harness.errors import BadConfig
from experiments.harness.training import make
from irnn_jax.network import NetworkLike

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
    """`start(net, numbers)` -> the state before the first step; `step` as `irnn_jax` makes it."""

    start: Callable[[NetworkLike, Numbers | None], irnn.TrainState]
    step: Callable[[irnn.TrainState, Any], tuple[irnn.TrainState, irnn.Metrics]]
    solver: Any


def trainer(config: DictConfig, network: DictConfig, loss: Callable[..., Any]) -> Trainer:
    """The training of one network of an experiment, with the numbers of each lane filled in."""
    solver, gradient = make(config.solver), make(network.gradient)
    guard = None if config.guard is None else make(config.guard)

    def optimizer_with(numbers: Numbers) -> Any:
        own = {k.removeprefix(OPTIMIZER): v for k, v in numbers.items() if k.startswith(OPTIMIZER)}
        return make(config.optimizer, own)

    def step_with(numbers: Numbers) -> Any:
        return irnn.make_train_step(
            loss,
            optimizer_with(numbers),
            solver=solver,
            gradient=gradient,
            guard=guard,
            tolerance=numbers.get(TOLERANCE),
            penalty=numbers.get("penalty", config.penalty),
        )

    def start(net: NetworkLike, numbers: Numbers | None = None) -> irnn.TrainState:
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
    return Trainer(start=start, step=step, solver=solver)


def grid(config: DictConfig) -> list[dict[str, float]]:
    """The points of `vary`, the last key the fastest; one empty point if nothing is varied."""
    varied = {str(key): values for key, values in (config.vary or {}).items()}
    for key, values in varied.items():
        _check(config, key, values)
    points = itertools.product(*varied.values())
    return [dict(zip(varied, map(float, point), strict=True)) for point in points]


def lanes(config: DictConfig, num_runs: int) -> tuple[PRNGKeyArray, dict[str, Array]]:
    """The key and the numbers of each lane, (points * runs,): the same keys for every point."""
    points = grid(config)
    keys = jax.random.split(jax.random.key(config.seed), num_runs)
    numbers = {
        key: jnp.repeat(jnp.array([point[key] for point in points]), num_runs) for key in points[0]
    }
    return keys[jnp.arange(len(points) * num_runs) % num_runs], numbers


def by_point(leaf: np.ndarray, num_points: int) -> np.ndarray:
    """(lanes, ...) as (points, runs, ...)."""
    return leaf.reshape(num_points, -1, *leaf.shape[1:])


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
