"""Which solver is fastest at which size: where the thresholds of `irnn_jax.Auto` come from.

Forward solves in float64 of networks of all sizes, fresh and with four times the weights, for few
samples, as in training, and for many, as in an evaluation. Beside each time stands how many samples
were brought to the equilibrium of `PseudoTransient`.

    python -m benchmarks.auto_choice
"""

import argparse
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

import irnn_jax as irnn
from benchmarks.regimes import Random
from benchmarks.timing import machine, paired

RUNS = 4
SOLVERS = {
    "PseudoTransient": irnn.PseudoTransient(),
    "InChunks": irnn.InChunks(),
    "InChunks, mixed": irnn.MixedPrecision(solver=irnn.InChunks()),
    "Exponential": irnn.Exponential(),
    "Auto": irnn.Auto(),
}


@functools.partial(jax.jit, static_argnums=0)
def solve(solver, nets, x):
    return jax.vmap(lambda net: irnn.equilibrium(net, x, solver=solver))(nets)


def agree(found, expected):
    """The share of samples that converged, and to the expected activities."""
    far = [
        np.max(np.abs(a - b), axis=-1)
        for a, b in zip(found.activities, expected.activities, strict=True)
    ]
    return np.mean(found.converged & (np.max(far, axis=0) < 1e-6))


def row(n, gain, samples, rounds):
    """Each solver's time and share."""
    nets = jax.tree.map(jnp.asarray, Random(gain).draw(RUNS, (20, n - 2, 2)))
    x = jnp.asarray(np.random.default_rng(2).normal(size=(samples, 20)))
    calls = {name: functools.partial(solve, solver, nets, x) for name, solver in SOLVERS.items()}
    timings = paired(calls, rounds)
    expected = calls["PseudoTransient"]()
    return [
        f"{timings[name].median / (RUNS * samples) * 1e6:.1f} ({agree(call(), expected):.1%})"
        for name, call in calls.items()
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--neurons", type=int, nargs="+", default=[7, 22, 32, 42, 66, 130])
    parser.add_argument("--samples", type=int, nargs="+", default=[18, 250, 1000])
    parser.add_argument("--gains", type=float, nargs="+", default=[1, 4])
    parser.add_argument("--most", type=int, default=33_000, help="neurons times samples, a run")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)

    table = Table(title=f"µs a sample, {RUNS} networks side by side, float64")
    for column in ("n", "gain", "samples a network", *SOLVERS):
        table.add_column(column, justify="right")
    for n, gain, samples in itertools.product(args.neurons, args.gains, args.samples):
        if n * samples <= args.most:
            cells = row(n, gain, samples, args.rounds)
            table.add_row(str(n), f"{gain:g}", f"{samples:,}", *cells)
    console = Console(width=120)
    console.print(table)
    console.print("In brackets: converged, and to the equilibrium of PseudoTransient.")
    console.print(machine())


if __name__ == "__main__":
    main()
