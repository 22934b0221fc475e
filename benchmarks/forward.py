"""How many equilibria a second: the networks of figure 6, evaluated as the experiments do.

Twelve networks of 100-5-2, trained for 20,000 steps (benchmarks/trained.npz), and twelve random
ones; on all devices, each with its share of the networks. 30 steps of Picard iteration, at their
best, in parts that fit the cache, are the yardstick: they are counted whether they converge or not.

    JAX_NUM_CPU_DEVICES=2 python -m benchmarks.forward
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from rich.console import Console
from rich.table import Table

import irnn_jax as irnn
from benchmarks.regimes import Random, Trained
from benchmarks.timing import machine, paired
from irnn_jax.data import OscillatorData
from irnn_jax.networks.dense import connections, drive
from irnn_jax.networks.dense_problem import DenseProblem

RUNS, SIZES = 12, (100, 5, 2)
WIDTH = 64


def picard(net, x):
    """The outputs and residuals after 30 steps, written for speed alone."""
    problem_matrix = connections(net, x.dtype)[:, :, None]
    drives = drive(net, x).T
    parts = jnp.moveaxis(drives.reshape(len(drives), -1, WIDTH), 1, 0)

    def solve(b):
        problem = DenseProblem(
            matrix=problem_matrix, drive=b, activation=jax.nn.sigmoid, sizes=(7,)
        )
        y = jax.lax.fori_loop(0, 30, lambda _, y: problem.value(y), jnp.zeros_like(b))
        return y[-2:].T, jnp.max(jnp.abs(problem.value(y) - y), axis=0)

    return jax.tree.map(
        lambda leaf: leaf.reshape(len(x), *leaf.shape[2:]), jax.lax.map(solve, parts)
    )


def by(solver):
    def solve(net, x):
        result = irnn.equilibrium(net, x, solver=solver)
        return result.activities[-1], result.residual

    return lambda nets, x: jax.vmap(lambda net: solve(net, x))(nets)


WAYS = {
    "InChunks": by(irnn.InChunks()),
    "InChunks, mixed precision": by(irnn.MixedPrecision(solver=irnn.InChunks())),
    "Picard, 30 steps": lambda nets, x: jax.lax.map(lambda net: picard(net, x), nets),
}


def evaluate(way, nets, x):
    """Mean output and fraction converged of each network: what must be kept of many equilibria."""

    def chunk(x):
        outputs, residuals = way(nets, x)
        near = residuals <= (1e-5 if x.dtype == jnp.float32 else 1e-11)
        return jnp.mean(outputs, axis=(1, 2)), jnp.mean(near, axis=1)

    return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), jax.lax.map(chunk, x))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=80_000)
    parser.add_argument("--chunk", type=int, default=8_000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)

    x, _ = OscillatorData().test(jnp.arange(args.samples))
    mesh = Mesh(np.array(jax.devices()), ("runs",))
    along, whole = PartitionSpec("runs"), PartitionSpec()
    table = Table(title=f"{RUNS} networks {SIZES} x {args.samples:,} samples")
    for column in ("weights", "dtype", "solver", "million a second", "at an equilibrium"):
        table.add_column(column, justify="right" if column.startswith(("mil", "at")) else "left")
    for weights in (Random(1), Trained()):
        nets = weights.draw(RUNS, SIZES)
        for dtype in (jnp.float64, jnp.float32):
            some = jax.tree.map(lambda leaf, dtype=dtype: jnp.asarray(leaf, dtype), nets)
            chunks = x.astype(dtype).reshape(-1, args.chunk, x.shape[1])
            calls = {}
            for name, way in WAYS.items():
                if dtype == jnp.float32 and "mixed" in name:
                    continue
                each = jax.shard_map(
                    functools.partial(evaluate, way),
                    mesh=mesh,
                    in_specs=(along, whole),
                    out_specs=along,
                    check_vma=False,
                )
                calls[name] = functools.partial(jax.jit(each), some, chunks)
            for name, timing in paired(calls, args.rounds).items():
                table.add_row(
                    str(weights),
                    jnp.dtype(dtype).name,
                    name,
                    f"{RUNS * args.samples / timing.median / 1e6:.2f}",
                    f"{np.mean(calls[name]()[1]):.2%}",
                )
    console = Console(width=110)
    console.print(table)
    console.print(f"Medians of {args.rounds} rounds, in turn; {len(jax.devices())} devices.")
    console.print(machine())


if __name__ == "__main__":
    main()
