"""Which nets with a known equilibrium defeat the fixed-step solvers, and which the default.

Reads reference cases: networks with the equilibrium that the flow from zero reaches, to 40 digits.
A solver fails a case if any sample is flagged as not converged, or is elsewhere than the reference.

    python -m benchmarks.fixed_step_failures
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

import irnn_jax as irnn
from irnn_jax import Layer, Network

CASES = Path(__file__).with_name("equilibria.npz")
# The paper reports residuals of about 1e-8 for its solver; it is judged by that here.
SOLVERS = {
    "default": irnn.PseudoTransient(),
    "Picard": irnn.Picard(tolerance=1e-8),
    "RK4 x 30": irnn.RungeKutta4(num_steps=30, step_size=1.0, tolerance=1e-8),
}
ELSEWHERE = 1e-5


def cases(path):
    """Yield name, network, inputs and equilibria (one array a layer, from input to output)."""
    arrays = np.load(path)
    for name in sorted({key.split("/")[0] for key in arrays}):
        case = {
            key.split("/")[1]: jnp.asarray(arrays[key])
            for key in arrays
            if key.startswith(f"{name}/")
        }
        if "W" in case:
            net = Network(layers=(Layer(feedforward=case["Q"], lateral=case["W"], bias=case["T"]),))
            yield name, net, case["X"], (case["Y"],)
        else:
            hidden = Layer(feedforward=case["Q2"], lateral=case["W2"], bias=case["T2"])
            output = Layer(feedforward=case["Q1"], lateral=case["W1"], bias=case["T1"])
            net = Network(layers=(hidden, output), feedback=(case["R"],))
            yield name, net, case["X"], (case["Y2"], case["Y1"])


def verdict(result, expected):
    """`flagged`, `elsewhere` or nothing, for the worst sample of a case."""
    if not result.converged.all():
        return f"flagged, residual {result.residual.max():.0e}"
    errors = (jnp.abs(a - b).max() for a, b in zip(result.activities, expected, strict=True))
    error = max(float(e) for e in errors)
    return f"elsewhere by {error:.0e}" if error > ELSEWHERE else ""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=Path, default=CASES)
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)

    table = Table(title="Cases that a solver fails")
    table.add_column("case")
    for name in SOLVERS:
        table.add_column(name)
    failures = dict.fromkeys(SOLVERS, 0)
    total = 0
    for name, net, x, expected in cases(args.cases):
        total += 1
        verdicts = [verdict(irnn.equilibrium(net, x, solver=s), expected) for s in SOLVERS.values()]
        for solver, words in zip(SOLVERS, verdicts, strict=True):
            failures[solver] += bool(words)
        if any(verdicts):
            table.add_row(name, *verdicts)
    console = Console(width=110)
    console.print(table)
    for solver, count in failures.items():
        console.print(f"{solver}: fails {count} of {total} cases")


if __name__ == "__main__":
    main()
