"""Blocks, Gauss-Jordan sweeps, LAPACK: where the thresholds of `irnn_jax.linalg.dense` come from.

Factorise once and solve four times, as a step of the default solver does.

    python -m benchmarks.linear_solves
"""

import argparse
import functools

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from benchmarks.timing import machine, paired
from irnn_jax.linalg.dense import eliminate, lapack, sweep

PASSES = 50  # in one loop, each using the one before: one call alone would time the dispatch
SOLVES = 4
WAYS = {"blocks": eliminate, "sweeps": sweep, "LAPACK": lapack}


def solve(factorize, matrix, rhs):
    factors = factorize(matrix)
    for _ in range(SOLVES):
        rhs = 0.1 * factors.solve(rhs)
    return rhs


def loop(factorize, matrices, rhs):
    def body(_, rhs):
        # The matrix changes from pass to pass, or its factors would be hoisted out of the loop.
        return solve(factorize, matrices * (1 + 1e-3 * rhs[:1]), rhs)

    return jax.lax.fori_loop(0, PASSES, body, rhs)


def missed(factorize, matrices, rhs):
    """max|M x - r|."""
    x = factorize(matrices).solve(rhs)
    return jnp.max(jnp.abs(jnp.einsum("ijb,jb->ib", matrices, x) - rhs))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=72)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2, 4, 7, 8, 12, 16, 22, 32])
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)

    table = Table(title=f"Factorise and solve {SOLVES} times, batch {args.batch}, float64")
    table.add_column("n", justify="right")
    for column in ("µs", "s", "error"):
        for way in WAYS:
            table.add_column(f"{way} {column}", justify="right")
    for n in args.sizes:
        key, rhs_key = jax.random.split(jax.random.key(n))
        coupling = jax.random.normal(key, (n, n, args.batch)) / n**0.5
        matrices = jnp.eye(n)[:, :, None] - coupling
        rhs = jax.random.normal(rhs_key, (n, args.batch))
        timings = paired(
            {
                way: functools.partial(jax.jit(functools.partial(loop, factorize)), matrices, rhs)
                for way, factorize in WAYS.items()
            },
            args.rounds,
        )
        table.add_row(
            str(n),
            *(f"{timings[way].median / PASSES * 1e6:.1f}" for way in WAYS),
            *(f"{timings[way].first:.1f}" for way in WAYS),
            *(f"{missed(factorize, matrices, rhs):.0e}" for factorize in WAYS.values()),
        )
    console = Console(width=110)
    console.print(table)
    console.print("µs: a batch; s: first call, compilation included; error: max|M x - r|.")
    console.print(machine())


if __name__ == "__main__":
    main()
