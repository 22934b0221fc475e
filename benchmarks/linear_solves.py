"""Unrolled elimination against LAPACK: where `irnn_jax.linear.UNROLL_UP_TO` comes from.

python -m benchmarks.linear_solves
"""

import argparse
import functools

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from benchmarks.timing import machine, paired
from irnn_jax.linear import eliminate, lapack

SOLVES = 50  # in one loop, each using the one before: one call alone would time the dispatch


def loop(factorize, matrices, rhs):
    def solve(matrix, rhs):
        return 0.1 * factorize(matrix).solve(rhs)

    def body(_, rhs):
        # The matrix changes from pass to pass, or its factors would be hoisted out of the loop.
        return jax.vmap(solve)(matrices * (1 + 1e-3 * rhs[:, :1, None]), rhs)

    return jax.lax.fori_loop(0, SOLVES, body, rhs)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=72)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2, 4, 6, 7, 8, 10, 12])
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)

    table = Table(title=f"Factorise and solve, batch {args.batch}, float64")
    for column in ("n", "unrolled µs", "LAPACK µs", "ratio", "unrolled s", "LAPACK s", "error"):
        table.add_column(column, justify="right")
    for n in args.sizes:
        key, rhs_key = jax.random.split(jax.random.key(n))
        coupling = jax.random.normal(key, (args.batch, n, n)) / n**0.5
        matrices = jnp.eye(n) - coupling
        rhs = jax.random.normal(rhs_key, (args.batch, n))
        timings = paired(
            {
                name: functools.partial(jax.jit(functools.partial(loop, factorize)), matrices, rhs)
                for name, factorize in (("unrolled", eliminate), ("LAPACK", lapack))
            },
            args.rounds,
        )
        x = jax.vmap(lambda matrix, rhs: eliminate(matrix).solve(rhs))(matrices, rhs)
        missed = jnp.max(jnp.abs(jnp.einsum("bij,bj->bi", matrices, x) - rhs))
        unrolled, reference = timings["unrolled"], timings["LAPACK"]
        table.add_row(
            str(n),
            f"{unrolled.median / SOLVES * 1e6:.1f}",
            f"{reference.median / SOLVES * 1e6:.1f}",
            f"{unrolled.median / reference.median:.2f}",
            f"{unrolled.first:.1f}",
            f"{reference.first:.1f}",
            f"{missed:.0e}",
        )
    console = Console(width=100)
    console.print(table)
    console.print(
        "µs: a batch; s: first call, compilation included; error: max|M x - r|, unrolled."
    )
    console.print(machine())


if __name__ == "__main__":
    main()
