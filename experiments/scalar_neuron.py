"""Figure 1: is dY/dW of one implicit neuron (eq. 2) what a finite difference says?

Y = f(W Y + Q X + T),    dY/dW = f' Y / (1 - f' W)
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from omegaconf import DictConfig

import irnn_jax as irnn
from experiments import runner
from experiments.report.content import Section
from experiments.report.scalar_neuron import present

UNIQUE_BELOW = 4.0  # f' <= 1/4: f(W Y + b) - Y falls with Y, so there is one equilibrium
NEAR_FOLD = 0.05  # of 1 - f' W, which is 0 where a stable and an unstable equilibrium meet


@dataclasses.dataclass(frozen=True)
class Grid:
    low: runner.Number
    high: runner.Number
    count: runner.Count


@dataclasses.dataclass(frozen=True)
class Config:
    x64: runner.Flag
    feedforward: runner.Number
    bias: runner.Number
    weights: Grid
    inputs: Grid
    difference: runner.Positive
    shown_inputs: runner.Numbers
    shown_weights: runner.Numbers


class Point(NamedTuple):
    """One W and one X, or leaves (W, X): where the neuron rests, and dY/dW in three ways."""

    equilibrium: Any
    rate: Any  # 1 - f' W, eq. 2's denominator
    formula: Any
    autodiff: Any
    numerical: Any
    converged: Any


def make_sweep(config: DictConfig) -> Callable[[Array, Array], Point]:
    """Build `point(W, X)`, pure: `vmap` it over a grid."""
    solver = runner.make(config.solver)
    gradient = runner.make(config.gradient)
    Q, T, h = config.feedforward, config.bias, config.difference

    def neuron(W: Array) -> irnn.Network:
        layer = irnn.Layer(
            feedforward=jnp.full((1, 1), Q), lateral=jnp.reshape(W, (1, 1)), bias=jnp.full(1, T)
        )
        return irnn.Network(layers=(layer,))

    def point(W: Array, X: Array) -> Point:
        x = jnp.reshape(X, 1)

        def rest(W: Array) -> tuple[Array, Array]:
            result = irnn.equilibrium(neuron(W), x, solver=solver, gradient=gradient)
            return result.activities[-1][0], result.converged

        (Y, converged), autodiff = jax.value_and_grad(rest, has_aux=True)(W)
        (above, below), nearby_converged = jax.vmap(rest)(jnp.stack([W + h, W - h]))
        (layer,) = irnn.jacobians(neuron(W), x, solver=solver).layers
        assert layer.lateral is not None
        return Point(
            equilibrium=Y,
            rate=1 - Y * (1 - Y) * W,
            formula=layer.lateral[0, 0, 0],
            autodiff=autodiff,
            numerical=(above - below) / (2 * h),
            converged=converged & jnp.all(nearby_converged),
        )

    return point


def run(config: DictConfig, recording: runner.Recording) -> Section:
    """Sweep the grid in one compiled program."""
    W, X = (np.linspace(g.low, g.high, g.count) for g in (config.weights, config.inputs))
    task = recording.display.task(
        "scalar neuron", total=1, unit="grid", size=W.size * X.size, of="points"
    )
    task.compiling()
    start = time.perf_counter()
    over_grid = jax.vmap(jax.vmap(make_sweep(config), in_axes=(None, 0)), in_axes=(0, None))
    sweep = jax.jit(over_grid).lower(W, X).compile()
    compiled = time.perf_counter()
    task.start(compiled=compiled - start)
    points: Point = jax.tree.map(np.asarray, sweep(W, X))
    recording.timing("grid", compiling=compiled - start, running=time.perf_counter() - compiled)
    runner.training.require_equilibria("scalar neuron", points.converged)
    rows = compare(W, points)
    task.update(
        1, difference=rows[0]["formula_minus_numerical"], converged=float(points.converged.mean())
    )

    shown = np.isin(W, config.shown_weights)[:, None] | np.isin(X, config.shown_inputs)
    for i, j in np.argwhere(shown):
        values = {name: leaf[i, j] for name, leaf in points._asdict().items()}
        recording.row(weight=W[i], input=X[j], **values)
    return present(W, X, points, rows, config=config, folder=recording.folder)


def compare(W: np.ndarray, points: Point) -> list[dict[str, Any]]:
    """Largest differences over the points that converged, for three kinds of points."""
    unique = np.broadcast_to((UNIQUE_BELOW > W)[:, None], points.rate.shape)
    fold = ~unique & (points.rate < NEAR_FOLD)
    kinds = {"W < 4": unique, "W ≥ 4": ~unique & ~fold, "W ≥ 4, next to a fold": fold}
    return [
        {
            "kind": kind,
            "points": int(inside.sum()),
            "converged": float(points.converged[inside].mean()),
            "largest_derivative": largest(points.formula, inside & points.converged),
            "formula_minus_numerical": largest(
                points.formula - points.numerical, inside & points.converged
            ),
            "formula_minus_autodiff": largest(
                points.formula - points.autodiff, inside & points.converged
            ),
        }
        for kind, inside in kinds.items()
        if inside.any()
    ]


def largest(values: np.ndarray, where: np.ndarray) -> float:
    return float(np.max(np.abs(values), where=where, initial=0))


EXPERIMENT = runner.Experiment(run, Config)
main = runner.command("scalar_neuron", scalar_neuron=EXPERIMENT)

if __name__ == "__main__":
    main()
