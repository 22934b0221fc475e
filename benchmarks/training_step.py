"""What a training step costs beside its feed-forward twin's, in one run.

The paper's setting: 12 runs x batch 6 on the damped oscillator, 100-5-2, Adam 0.01, float64, 1,000
steps in one scan. Once from fresh weights, and once from weights that have trained, where the
equilibria are stiffer. Data are drawn beforehand, so that only steps are timed.

    python -m benchmarks.training_step
"""

import argparse
import functools

import jax
from rich.console import Console
from rich.table import Table

import irnn_jax as irnn
from benchmarks.timing import machine, paired
from irnn_jax.data import OscillatorData

RUNS, BATCH, SIZES = 12, 6, (100, 5, 2)
VARIANTS = {
    "feed-forward": {"recurrent": False, "gradient": irnn.Exact()},
    "semi-gradient": {"recurrent": True, "gradient": irnn.SemiGradient()},
    "exact": {"recurrent": True, "gradient": irnn.Exact()},
}


def sample(key):
    data = OscillatorData()
    return data.train(jax.random.randint(key, (BATCH,), 0, data.num_train))


def start(recurrent, optimizer, keys):
    def state(key):
        net = irnn.init(key, SIZES, recurrent=recurrent)
        return irnn.TrainState.create(net, optimizer)

    return jax.vmap(state)(keys)


def contender(variant, num_steps, trained_steps):
    """A call that makes `num_steps` steps in all runs, and the state it starts from."""
    optimizer = irnn.adam(0.01)
    step = irnn.make_train_step(irnn.squared_error, optimizer, gradient=variant["gradient"])
    keys = jax.random.split(jax.random.key(0), RUNS)
    states = start(variant["recurrent"], optimizer, keys)
    if trained_steps:
        states, _ = irnn.fit(
            states, keys, step=step, sample=sample, num_epochs=1, num_steps=trained_steps
        )
    batches = jax.jit(jax.vmap(jax.vmap(sample)))(
        jax.random.split(jax.random.key(1), (RUNS, num_steps))
    )
    scan = jax.jit(jax.vmap(functools.partial(jax.lax.scan, step)))
    return functools.partial(scan, states, batches)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000, help="steps in a timed scan")
    parser.add_argument("--trained", type=int, default=20_000, help="steps before, where trained")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)

    table = Table(title=f"A training step, {RUNS} runs x batch {BATCH}, {SIZES}, float64")
    for column in ("weights", "network", "µs a step", "ratio", "solver steps", "converged", "s"):
        table.add_column(column, justify="left" if column in ("weights", "network") else "right")
    for weights, trained_steps in (("fresh", 0), (f"{args.trained:,} steps", args.trained)):
        calls = {
            name: contender(variant, args.steps, trained_steps)
            for name, variant in VARIANTS.items()
        }
        timings = paired(calls, args.rounds)
        twin = timings["feed-forward"].median
        for name, timing in timings.items():
            _, metrics = calls[name]()
            table.add_row(
                weights,
                name,
                f"{timing.median / args.steps * 1e6:.0f}",
                f"{timing.median / twin:.2f}",
                f"{metrics.mean_steps.mean():.1f}",
                f"{metrics.converged.mean():.4%}",
                f"{timing.first:.1f}",
            )
    console = Console(width=100)
    console.print(table)
    console.print(f"Medians of {args.rounds} rounds, in turn; s: first call, compilation included.")
    console.print(machine())


if __name__ == "__main__":
    main()
