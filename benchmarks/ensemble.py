"""Does a solver come to rest where the flow does? On random networks, against the flow itself.

A has normal entries of standard deviation gain/sqrt(n); drives are normal, off-centre as drawn or
centred so that the sum A/2 + b of each neuron is about zero, where sigmoids are steepest. The
reference is the flow by RK4 with steps of 0.05 to t = 50 and 0.1 to t = 350; it converged where
max|dY/dt| <= 1e-9. On the samples on which it converged are counted: those on which the solver
does, those at the flow's own equilibrium (within 1e-5), and steps. On all samples: silent failures,
flagged as converged though the residual, computed anew, is above the tolerance or an eigenvalue of
D A has a real part above one.

    python -m benchmarks.ensemble
"""

import argparse
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.special import expit

import irnn_jax as irnn
from benchmarks.timing import machine

SIZES = {1: 3200, 2: 3200, 7: 3200, 20: 3200, 64: 800}  # neurons: samples in a cell
GAINS = (2, 6, 15, 30)
DRIVES = ("off-centre", "centred")
AT_REST, SAME = 1e-9, 1e-5
STAGES = ((0.05, 1000), (0.1, 500), (0.1, 1000), (0.1, 1500))  # (step, steps)
SOLVERS = {
    "default": {},
    # What `Auto` takes for more neurons.
    "wide": {"solver": irnn.Cascade(solvers=(irnn.Exponential(), irnn.PseudoTransient()))},
    "exponential": {"solver": irnn.Exponential()},
    "checked": {"check_stability": True},
    "cascade": {"solver": irnn.Cascade(), "check_stability": True},  # slow where the flow cycles
}


def draw(n, gain, drive, count, seed):
    rng = np.random.default_rng([seed, n, gain, DRIVES.index(drive)])
    matrix = rng.normal(size=(count, n, n)) * gain / np.sqrt(n)
    b = rng.normal(size=(count, n))
    return matrix, b - matrix.sum(axis=-1) / 2 if drive == "centred" else b


def velocity(matrix, b, y):
    return jax.nn.sigmoid(jnp.einsum("bij,bj->bi", matrix, y) + b) - y


@functools.partial(jax.jit, static_argnums=4)
def follow(matrix, b, y, step, num_steps):
    """RK4 on the flow."""
    field = functools.partial(velocity, matrix, b)

    def advance(_, y):
        k1 = field(y)
        k2 = field(y + step / 2 * k1)
        k3 = field(y + step / 2 * k2)
        k4 = field(y + step * k3)
        return y + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)

    y = jax.lax.fori_loop(0, num_steps, advance, y)
    return y, jnp.max(jnp.abs(field(y)), axis=-1)


def reference(matrix, b):
    """Where the flow from 0 rests, and whether it does; samples at rest are not followed on."""
    y, rest = np.zeros_like(b), np.zeros(len(b), bool)
    for step, num_steps in STAGES:
        left = np.flatnonzero(~rest)
        if not left.size:
            break
        # Few sizes, few compiled programs: filled up with samples that are done.
        size = min(len(b), 1 << int(np.ceil(np.log2(left.size))))
        index = np.resize(left, size)
        moved, speed = map(np.array, follow(matrix[index], b[index], y[index], step, num_steps))
        y[index], rest[index] = moved, speed <= AT_REST
    return y, rest


@functools.partial(jax.jit, static_argnames=("solver", "check_stability"))
def solve(matrix, b, **options):
    def one(matrix, b):
        layer = irnn.Layer(feedforward=jnp.zeros((b.size, 1)), lateral=matrix, bias=b)
        return irnn.equilibrium(irnn.Network(layers=(layer,)), jnp.zeros(1), **options)

    return jax.vmap(one)(matrix, b)


def judge(matrix, b, y_flow, rest, result):
    """One cell's counts."""
    y, flag, steps = map(np.asarray, (result.activities[0], result.converged, result.num_steps))
    same = np.max(np.abs(y - y_flow), axis=-1) <= SAME
    value = expit(np.einsum("bij,bj->bi", matrix, y) + b)
    residual = np.max(np.abs(value - y), axis=-1)
    slope = value * (1 - value)
    abscissa = np.linalg.eigvals(slope[:, :, None] * matrix).real.max(axis=-1)
    return {
        "samples": len(b),
        "flow": rest.sum(),
        "solver": (rest & flag).sum(),
        "same": (rest & flag & same).sum(),
        "steps": steps[rest],
        "wrong": (flag & ~(residual <= 2e-12)).sum(),
        "unstable": (flag & ~(abscissa < 1)).sum(),
    }


def merged(cells):
    total = {key: sum(cell[key] for cell in cells) for key in cells[0] if key != "steps"}
    return total | {"steps": np.concatenate([cell["steps"] for cell in cells])}


def row(label, cell):
    flow = max(int(cell["flow"]), 1)
    return (
        *map(str, label),
        f"{cell['samples']:,}",
        f"{cell['flow'] / cell['samples']:.2%}",
        f"{cell['solver'] / flow:.3%}",
        f"{cell['same'] / flow:.3%}",
        f"{np.mean(cell['steps']):.2f}",
        f"{np.percentile(cell['steps'], 99):.0f}",
        str(int(cell["wrong"])),
        str(int(cell["unstable"])),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--solvers", nargs="+", default=["default", "checked"], choices=SOLVERS)
    parser.add_argument("--gains", type=int, nargs="+", default=GAINS, choices=GAINS)
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the samples of a cell")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)

    start = time.perf_counter()
    cells = {}
    for n, samples in SIZES.items():
        for gain in args.gains:
            for drive in DRIVES:
                matrix, b = draw(n, gain, drive, max(2, int(samples * args.scale)), args.seed)
                y_flow, rest = reference(matrix, b)
                for name in args.solvers:
                    result = solve(matrix, b, **SOLVERS[name])
                    cells[name, gain, n, drive] = judge(matrix, b, y_flow, rest, result)
        print(f"n = {n}: {time.perf_counter() - start:.0f} s", flush=True)

    console = Console(width=120)
    columns = ("samples", "flow rests", "solver too", "same", "steps", "p99", "wrong", "unstable")
    for name in args.solvers:
        table = Table(title=f"Solver: {name}")
        for column in ("gain", "n", "drive", *columns):
            table.add_column(column, justify="left" if column == "drive" else "right")
        for gain in args.gains:
            of_gain = {key[2:]: cell for key, cell in cells.items() if key[:2] == (name, gain)}
            for (n, drive), cell in of_gain.items():
                table.add_row(*row((gain, n, drive), cell))
            table.add_section()
            table.add_row(*row((gain, "all", ""), merged(list(of_gain.values()))), style="bold")
            table.add_section()
        console.print(table)
    console.print("solver too, same, steps: of the samples on which the flow comes to rest.")
    console.print("wrong, unstable: silent failures, flagged as converged, of all samples.")
    console.print(machine())


if __name__ == "__main__":
    main()
