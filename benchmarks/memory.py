"""Constant memory: what the exact gradient and backpropagation need, against the steps allowed.

The peak of temporary memory is XLA's own, from the compiled program (`memory_analysis`), for the
gradient of one batch: it is reserved whatever the number of steps that a batch then takes. The
exact gradient keeps one state whatever the steps; `Unrolled` keeps about the square root of
`max_steps` states, or all of them with as many checkpoints.

    python -m benchmarks.memory
"""

import argparse

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

import irnn_jax as irnn
from benchmarks.regimes import TINY, Cell, Random, Task, draw
from benchmarks.timing import machine

STEPS = (16, 64, 256, 1024)
SOLVERS = {"PseudoTransient": irnn.PseudoTransient, "Picard": irnn.Picard}


def gradients(max_steps):
    """The gradients that are compared, for as many steps."""
    return {
        "Exact": irnn.Exact(),
        "Unrolled": irnn.Unrolled(),
        "Unrolled, every state": irnn.Unrolled(checkpoints=max_steps),
    }


LABELS = tuple(gradients(1))


def peak(solver, gradient, net, x, target):
    """Bytes of temporary memory of the compiled gradient."""

    def loss(net):
        output = irnn.apply(net, x, solver=solver, gradient=gradient)
        return jnp.mean((output - target) ** 2)

    analysis = jax.jit(jax.grad(loss)).lower(net).compile().memory_analysis()
    if analysis is None:
        raise RuntimeError("this backend does not say how much memory a program takes")
    return analysis.temp_size_in_bytes


def measured(batch, steps, names, labels=LABELS):
    """(solver, gradient) -> peaks in bytes, one for each number of steps."""
    cell = Cell(
        regime="memory", task=Task.GRADIENT, sizes=TINY, weights=Random(1), runs=1, batch=batch
    )
    case = draw(cell, "float64")
    net, x, target = jax.tree.map(lambda leaf: leaf[0], (case.net, case.x[0], case.target[0]))
    peaks = {}
    for name in names:
        for max_steps in steps:
            solver = SOLVERS[name](max_steps=max_steps)
            for label in labels:
                gradient = gradients(max_steps)[label]
                peaks.setdefault((name, label), []).append(peak(solver, gradient, net, x, target))
    return peaks


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--solvers", nargs="+", default=list(SOLVERS), choices=SOLVERS)
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)

    title = f"Peak temporary memory of a gradient, MB: 100–5–2, {args.batch:,} samples, float64"
    table = Table(title=title)
    for column in ("solver", "gradient", *(f"max_steps {steps:,}" for steps in args.steps)):
        table.add_column(column, justify="right" if "steps" in column else "left")
    for (name, label), peaks in measured(args.batch, args.steps, args.solvers).items():
        table.add_row(name, label, *(f"{bytes_ / 1e6:.1f}" for bytes_ in peaks))
    console = Console(width=120)
    console.print(table)
    console.print(machine())


if __name__ == "__main__":
    main()
