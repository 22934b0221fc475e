"""XOR, learnt and lost again: how often, what happens when it is, and what prevents it.

One layer of two neurons, only Y1 trained, the paper's initialisation, 100 seeds, float64. A seed
has solved XOR where the mean squared error of Y1 is below 0.01. First how many have, after so many
steps, for several ways to train; then, for the optimiser's steps alone, what the first loss looks
like: the spectral abscissa of D A for the pattern that is lost, a step before and a step after, and
how far its activities moved against what the exact derivatives predicted.

    python -m benchmarks.lost_equilibria
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

import irnn_jax as irnn
from benchmarks.timing import machine
from irnn_jax.data import patterns

SIZES, SOLVED, LOST, LOOK = (2, 2), 0.01, 0.05, 500
CLIPPED = optax.chain(optax.clip_by_global_norm(0.03), optax.adam(0.01))
VARIANTS = {
    "default": {},
    "no guard": {"step": {"guard": None}},
    "no guard, AMSGrad": {"step": {"guard": None}, "optimizer": optax.amsgrad(0.01)},
    "no guard, beta2 = 0.99": {"step": {"guard": None}, "optimizer": optax.adam(0.01, b2=0.99)},
    "no guard, clipped at 0.03": {"step": {"guard": None}, "optimizer": CLIPPED},
    "no guard, penalty 0.003": {"step": {"guard": None, "penalty": 0.003}},
    "no guard, certified": {
        "step": {"guard": None},
        "init": {"parametrization": irnn.Certified()},
    },
}


def loss(output, target):
    return (output[0] - target[0]) ** 2


def trainer(variant):
    """The step, and the states of all seeds before the first."""
    optimizer = variant.get("optimizer", irnn.adam(0.01))
    step = irnn.make_train_step(loss, optimizer, **variant.get("step", {}))

    def start(key):
        net = irnn.init(key, SIZES, **variant.get("init", {}))
        return irnn.TrainState.create(net, optimizer)

    return step, start


@jax.jit
@jax.vmap
def error(net):
    """The mean squared error of Y1; a pattern without equilibrium counts as 1."""
    x, target = patterns()
    result = irnn.equilibrium(net, x)
    squares = jax.vmap(loss)(result.activities[-1], target)
    return jnp.mean(jnp.where(result.converged, squares, 1))


def counts(variant, keys, num_steps, reported):
    """How many seeds have solved XOR at the reported steps, and at the worst look after 1,000."""
    step, start = trainer(variant)
    states = jax.vmap(start)(keys)
    solved = {}
    for at in range(LOOK, num_steps + 1, LOOK):
        states, _ = irnn.fit(
            states, keys, step=step, sample=all_patterns, num_epochs=1, num_steps=LOOK
        )
        solved[at] = int(np.sum(error(states.net) < SOLVED))
    worst = min(count for at, count in solved.items() if at >= 1000)
    return [solved.get(at, "") for at in reported], worst, np.median(error(states.net))


def all_patterns(key):
    del key
    return patterns()


def linearised(net, x):
    """Activities, abscissa of D A, and D and I - D A, for each pattern."""
    result = irnn.equilibrium(net, x)
    y = result.activities[-1]
    slope = y * (1 - y)
    jacobian = slope[:, :, None] * net.layers[0].lateral
    abscissa = jnp.max(jnp.linalg.eigvals(jacobian).real, axis=-1)
    return y, abscissa, slope, jnp.eye(y.shape[-1]) - jacobian


@functools.partial(jax.jit, static_argnums=(0, 1, 3))
def first_losses(step, start, keys, num_steps):
    """For each seed, of its first loss: when, abscissa before and after, movement, prediction."""
    x, target = patterns()

    def run(key):
        def advance(carry, number):
            state, solved, record = carry
            new, metrics = step(state, (x, target))
            y0, before, slope, matrix = linearised(state.net, x)
            y1, after, *_ = linearised(new.net, x)
            # dY = (I - D A)^-1 D (dW Y + dQ x + dT), the exact first-order movement.
            layers = state.net.layers[0], new.net.layers[0]
            dQ, dW, dT = jax.tree.map(lambda old, fresh: fresh - old, *layers)
            rhs = slope * (y0 @ dW.T + x @ dQ.T + dT)
            predicted = jnp.linalg.solve(matrix, rhs[:, :, None])[:, :, 0]
            moved = jnp.max(jnp.abs(y1 - y0), axis=-1)
            lost = jnp.argmax(moved)
            solved = solved | (metrics.loss < SOLVED / 10)
            happens = solved & (jnp.mean((y1 - target)[:, 0] ** 2) > LOST) & (record[0] == 0)
            found = (number, before[lost], after[lost], moved[lost], jnp.max(jnp.abs(predicted)))
            record = jnp.where(happens, jnp.stack([jnp.asarray(f, float) for f in found]), record)
            return (new, solved, record), None

        carry = (start(key), jnp.zeros((), bool), jnp.zeros(5))
        (_, _, record), _ = jax.lax.scan(advance, carry, jnp.arange(1, num_steps + 1))
        return record

    return jax.vmap(run)(keys)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    keys = jax.random.split(jax.random.key(0), args.seeds)
    console = Console(width=110)

    reported = [at for at in (500, 1000, 2000, 4000, 10_000, 20_000) if at <= args.steps]
    table = Table(title=f"XOR: seeds of {args.seeds} that have solved it after so many steps")
    table.add_column("training")
    for column in (*(f"{at:,}" for at in reported), "worst from 1,000 on", "median error"):
        table.add_column(column, justify="right")
    for name in args.variants:
        solved, worst, median = counts(VARIANTS[name], keys, args.steps, reported)
        table.add_row(name, *map(str, solved), str(worst), f"{median:.1e}")
    console.print(table)

    watched = min(args.steps, 5000)
    record = np.asarray(first_losses(*trainer(VARIANTS["no guard"]), keys, watched))
    record = record[record[:, 0] > 0]
    table = Table(
        title=f"The first loss in {watched:,} steps, no guard: {len(record)} of {args.seeds} seeds"
    )
    table.add_column("")
    for column in ("lower quartile", "median", "upper quartile"):
        table.add_column(column, justify="right")
    labels = (
        "after steps",
        "spectral abscissa before",
        "spectral abscissa after",
        "movement of Y",
        "movement predicted",
    )
    for label, column in zip(labels, record.T, strict=True):
        quartiles = np.quantile(column, (0.25, 0.5, 0.75))
        table.add_row(label, *(f"{value:.4g}" for value in quartiles))
    console.print(table)
    console.print(f"worst: at a look every {LOOK} steps. {machine()}")


if __name__ == "__main__":
    main()
