"""Training that stays well posed: plain, guarded, penalised and certified networks side by side.

The damped oscillator at the paper's settings: 100-5-2, batch 6, Adam 0.01, float64, 12 runs. After
training: the error on test samples, how many have no equilibrium or an unstable one, solver steps,
the largest weight, for how many runs `certify` proves one equilibrium, and the time.

    python -m benchmarks.well_posed
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

import irnn_jax as irnn
from benchmarks.timing import machine
from irnn_jax.data import OscillatorData

SIZES, BATCH = (100, 5, 2), 6
VARIANTS = {
    "feed-forward": {"init": {"recurrent": False}},
    "plain, no guard": {"step": {"guard": None}},
    "plain": {},
    "penalty 0.001": {"step": {"penalty": 0.001}},
    "penalty 0.003": {"step": {"penalty": 0.003}},
    "certified": {"init": {"parametrization": irnn.Certified()}},
    "symmetric": {"init": {"parametrization": irnn.Symmetric()}},
}
DATA = OscillatorData()


def sample(key):
    return DATA.train(jax.random.randint(key, (BATCH,), 0, DATA.num_train))


def train(variant, runs, num_steps):
    """The networks after training, and the seconds that the steps took, without compilation."""
    optimizer = irnn.adam(0.01)
    step = irnn.make_train_step(irnn.squared_error, optimizer, **variant.get("step", {}))
    keys = jax.random.split(jax.random.key(0), runs)

    def start(key):
        net = irnn.init(key, SIZES, **variant.get("init", {}))
        return irnn.TrainState.create(net, optimizer)

    states = jax.vmap(start)(keys)
    options = {"step": step, "sample": sample, "num_epochs": 1, "num_steps": num_steps}
    fit = irnn.fit.lower(states, keys, **options).compile()
    begin = time.perf_counter()
    states, metrics = jax.block_until_ready(fit(states, keys))
    return states.net, metrics, time.perf_counter() - begin


def test(nets, num_test):
    """Of each run: the error over the samples that converged, the others, the unstable, steps."""
    x, target = DATA.test(jnp.arange(num_test))

    def one(net):
        result = irnn.equilibrium(net, x, check_stability=True)
        error = jnp.mean((result.activities[-1] - target) ** 2, axis=-1)
        converged = result.converged
        unstable = jnp.sum(result.status == irnn.Status.UNSTABLE)
        mean = jnp.sum(jnp.where(converged, error, 0)) / jnp.sum(converged)
        return mean, jnp.sum(~converged) - unstable, unstable, jnp.mean(result.num_steps)

    return map(np.asarray, jax.lax.map(one, nets))


def largest_weight(net):
    assembled = net if isinstance(net, irnn.Network) else net.network()
    layers, feedback = assembled.layers, assembled.feedback
    between = [layer.feedforward for layer in layers[1:]]
    lateral = [layer.lateral for layer in layers]
    weights = [w for w in (*between, *lateral, *feedback) if w is not None]
    return max(float(jnp.max(jnp.abs(w))) for w in weights)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--test", type=int, default=20_000, help="test samples of each run")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)

    table = Table(title=f"{args.runs} runs x {args.steps:,} steps, {SIZES}, float64")
    columns = ("test error", "± sem", "no eq.", "unstable", "steps", "max|w|", "certified", "s")
    table.add_column("network")
    for column in columns:
        table.add_column(column, justify="right")
    for name in args.variants:
        nets, _, seconds = train(VARIANTS[name], args.runs, args.steps)
        error, missing, unstable, steps = test(nets, args.test)
        certified = jax.jit(jax.vmap(irnn.certify))(nets).is_certified
        each = [jax.tree.map(lambda leaf, run=run: leaf[run], nets) for run in range(args.runs)]
        table.add_row(
            name,
            f"{np.mean(error):.4f}",
            f"{np.std(error, ddof=1) / len(error) ** 0.5:.4f}",
            str(missing.sum()),
            str(unstable.sum()),
            f"{np.mean(steps):.1f}",
            f"{max(map(largest_weight, each)):.0f}",
            f"{int(certified.sum())}/{args.runs}",
            f"{seconds:.0f}",
        )
    console = Console(width=110)
    console.print(table)
    console.print(f"no eq., unstable: of {args.runs * args.test:,} test samples.")
    console.print(machine())


if __name__ == "__main__":
    main()
