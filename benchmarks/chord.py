"""What one linearisation for a whole batch is worth.

    python -m benchmarks.chord

784-256-10, 1,024 samples, weights of standard deviation gain/sqrt(n). Spectral radii, over a few
samples, of what a step leaves of the error: D A of a plain step, (I - A D')^-1 A (D - D') of a
chord's. Steps to a change below 1e-10, slowest sample.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.regimes import Cell, Random, Task, draw
from irnn_jax.iterations.chord import Chord, unknown_chord
from irnn_jax.iterations.hammerstein import Hammerstein
from irnn_jax.iterations.stationary import iterate
from irnn_jax.networks.dense import connections, drive

GAINS, SAMPLES, SOME, TOLERANCE = (1, 2, 3, 4), 1024, 4, 1e-10


def equation_of(gain: float) -> Hammerstein:
    """A batch's equation."""
    cell = Cell(
        regime="c",
        task=Task.GRADIENT,
        sizes=(784, 256, 10),
        weights=Random(gain),
        runs=1,
        batch=SAMPLES,
    )
    case = draw(cell, "float64")
    net, x = jax.tree.map(lambda leaf: leaf[0], case.net), case.x[0, 0]
    matrix, b = connections(net, x.dtype), drive(net, x)
    return Hammerstein.of(matrix[:, :, None], b.T, jax.nn.sigmoid)


def plain_steps(equation: Hammerstein) -> int:
    """Until the change is below the tolerance."""
    u = equation.drive
    for number in itertools.count(1):
        after = equation.drive + equation.times(equation.value(u))
        if jnp.max(jnp.abs(equation.value(after) - equation.value(u))) < TOLERANCE:
            return number
        u = after
    raise AssertionError


def radii(equation: Hammerstein, u: jax.Array, chord: Chord) -> tuple[float, float]:
    """Of a plain step and of a chord's, the largest over some samples."""
    matrix, slope = np.asarray(equation.matrix), np.asarray(equation.slope_at(u))
    response, mean = np.asarray(chord.response), np.asarray(chord.mean)

    def radius(m: np.ndarray) -> float:
        return float(np.max(np.abs(np.linalg.eigvals(m))))

    return (
        max(radius(matrix * slope[:, i]) for i in range(SOME)),
        max(radius(response * (slope[:, i] - mean)) for i in range(SOME)),
    )


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    table = Table(title="784-256-10, 1,024 samples, float64")
    for column in ("gain", "radius, plain", "radius, chord", "steps, plain", "plain, then chord"):
        table.add_column(column, justify="right")
    for gain in GAINS:
        equation = equation_of(gain)
        going = jnp.ones(SAMPLES, bool)
        start = unknown_chord(equation.num_neurons, jnp.float64)
        settled, chord = iterate(equation, jnp.zeros_like(equation.drive), going, TOLERANCE, start)
        assert bool(jnp.all(settled.done))
        plain, by_chord = radii(equation, equation.drive + settled.recurrent, chord)
        table.add_row(
            f"{gain}",
            f"{plain:.2f}",
            f"{by_chord:.2f}",
            f"{plain_steps(equation)}",
            f"{int(jnp.max(settled.num_steps))}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
