"""A user's own training loop, without any flag for XLA: a step's time over its feed-forward twin's.

One `lax.scan` of steps, 12 runs (mapped) x batch 6, 100-5-2, float64, Adam by group as in the
README; once with the user's own `jax.value_and_grad` of the mean squared error of `irnn.apply`, and
once with `make_train_step`. The twin is the same loop for a network without recurrent weights. From
fresh weights, and from trained ones (`benchmarks/trained.npz`), which small learning rates leave
what they are. All take turns in one process, started without the flags that the benchmarks set;
its data are drawn before, and gone round.

    python -m benchmarks.own_loop                         # 2 minutes
    python -m benchmarks.own_loop --steps 200 --rounds 3
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# Run by its path, this file is the measured process: nothing at this level may import `benchmarks`,
# which sets flags for XLA.

GOAL = 3.0  # times the twin
SIZES = (100, 5, 2)
RATES = {"feedforward": 0.01, "lateral": 0.003, "feedback": 0.003, "bias": 0.01}
SMALL = 0.01  # of the rates, from trained weights


# --- the measured process -------------------------------------------------------------------


def own(net, optimizer):
    """The user's own loop: the state before it, and a step of one run."""
    import jax
    import jax.numpy as jnp
    import optax

    import irnn_jax as irnn

    def step(state, batch):
        net, opt_state = state
        x, target = batch

        def loss(net):
            return jnp.mean((irnn.apply(net, x) - target) ** 2)

        value, gradient = jax.value_and_grad(loss)(net)
        updates, opt_state = optimizer.update(gradient, opt_state, net)
        return (optax.apply_updates(net, updates), opt_state), value

    return (net, jax.vmap(optimizer.init)(net)), step


def library(net, optimizer):
    """`make_train_step`."""
    import jax

    import irnn_jax as irnn

    step = irnn.make_train_step(irnn.squared_error, optimizer)
    state = jax.vmap(lambda net: irnn.TrainState.create(net, optimizer))(net)
    return state, lambda state, batch: ((new := step(state, batch))[0], new[1].loss)


LOOPS = {"own value_and_grad": own, "make_train_step": library}


def scanned(loop, net, rates, x, target, num_steps):
    """A call that makes the steps in all runs, and returns the last state and the losses."""
    import jax
    import jax.numpy as jnp

    import irnn_jax as irnn

    state, step = loop(net, irnn.adam(rates))

    @jax.jit
    def train(state, x, target):
        def body(state, i):
            return jax.vmap(step)(state, (x[i % len(x)], target[i % len(x)]))

        return jax.lax.scan(body, state, jnp.arange(num_steps))

    return lambda: train(state, x, target)


def networks(arrays):
    """weights -> recurrent or twin -> networks (runs, ...)."""
    import jax

    import irnn_jax as irnn

    keys = jax.random.split(jax.random.key(0), arrays["x"].shape[1])
    template = irnn.init(keys[0], SIZES)
    structure = jax.tree.structure(template)
    leaves = [arrays[str(i)] for i in range(structure.num_leaves)]
    trained = jax.tree.unflatten(structure, leaves)
    layers = tuple(layer._replace(lateral=None) for layer in trained.layers)
    fresh = {
        name: jax.vmap(lambda key, flag=flag: irnn.init(key, SIZES, recurrent=flag))(keys)
        for name, flag in (("recurrent", True), ("twin", False))
    }
    twin = trained._replace(layers=layers, feedback=())
    return {"fresh": fresh, "trained": {"recurrent": trained, "twin": twin}}


def measured(path: str | Path, num_steps: int, rounds: int, only: str = "") -> list[dict]:
    """A row for each kind of weights and loop: seconds a step, and how the loop ended.

    `only` the kind of weights with this in its name.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    import irnn_jax as irnn

    jax.config.update("jax_enable_x64", True)
    with np.load(path) as content:
        arrays = {name: jnp.asarray(content[name]) for name in content}
    x, target = arrays["x"], arrays["target"]
    calls = {}
    for weights, nets in networks(arrays).items():
        if only not in weights:
            continue
        scale = SMALL if weights == "trained" else 1
        rates = {group: rate * scale for group, rate in RATES.items()}
        for loop, make in LOOPS.items():
            for kind, net in nets.items():
                calls[weights, loop, kind] = scanned(make, net, rates, x, target, num_steps)
    seconds = {key: [] for key in calls}
    first, last = {}, {}
    for key, call in calls.items():
        begin = time.perf_counter()
        last[key], losses = jax.block_until_ready(call())
        first[key] = time.perf_counter() - begin
        assert bool(jnp.all(jnp.isfinite(losses))), key
    for _ in range(rounds):
        for key, call in calls.items():
            begin = time.perf_counter()
            jax.block_until_ready(call())
            seconds[key].append((time.perf_counter() - begin) / num_steps)
    rows = []
    for key in calls:
        net = last[key][0]
        flags = jax.vmap(lambda net, x: irnn.equilibrium(net, x).converged)(net, x[0])
        rows.append(
            {
                **dict(zip(("weights", "loop", "network"), key, strict=True)),
                "median": statistics.median(seconds[key]),
                "fastest": min(seconds[key]),
                "first": first[key],
                "converged": float(jnp.mean(flags)),
            }
        )
    return rows


# --- the command ----------------------------------------------------------------------------


def write_inputs(path: Path) -> None:
    """Batches to go round, and the trained weights, for `measured` in another process."""
    import jax
    import numpy as np

    from benchmarks.regimes import TINY, Cell, Random, Task, Trained, draw

    jax.config.update("jax_enable_x64", True)
    cell = Cell(regime="a", task=Task.TRAINING, sizes=TINY, weights=Random(1), runs=12, batch=6)
    case = draw(cell, "float64")
    leaves = jax.tree.leaves(Trained().draw(12, SIZES))
    arrays: dict[str, Any] = {str(i): np.asarray(leaf, float) for i, leaf in enumerate(leaves)}
    np.savez(path, **arrays, x=np.asarray(case.x), target=np.asarray(case.target))


def in_process(num_steps: int, rounds: int) -> list[dict]:
    """`measured`, in a new process without flags."""
    from benchmarks.first_call import user_environment

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "inputs.npz"
        write_inputs(path)
        command = [sys.executable, "-P", __file__, "--child", str(path)]
        command += ["--steps", str(num_steps), "--rounds", str(rounds)]
        done = subprocess.run(
            command, env=user_environment(), stdout=subprocess.PIPE, text=True, check=True
        )
    return with_ratios(json.loads(done.stdout))


def with_ratios(rows: list[dict]) -> list[dict]:
    """Each row with its time over that of the twin in the same loop."""
    twins = {
        (row["weights"], row["loop"]): row["median"] for row in rows if row["network"] == "twin"
    }
    return [{**row, "ratio": row["median"] / twins[row["weights"], row["loop"]]} for row in rows]


def show(rows: list[dict], num_steps: int) -> None:
    from rich.console import Console
    from rich.table import Table

    from benchmarks.timing import machine

    table = Table(title=f"A step of {num_steps:,} in one scan, 12 runs x batch 6, no flags for XLA")
    for column in ("weights", "loop", "network"):
        table.add_column(column, no_wrap=True)
    for column in ("µs a step", "fastest", "× twin", "goal", "first call s", "converged after"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row["weights"],
            row["loop"],
            row["network"],
            f"{row['median'] * 1e6:.0f}",
            f"{row['fastest'] * 1e6:.0f}",
            f"{row['ratio']:.2f}",
            f"≤ {GOAL:g}" if row["network"] == "recurrent" else "",
            f"{row['first']:.1f}",
            f"{row['converged']:.1%}",
        )
    console = Console(width=130)
    console.print(table)
    console.print(machine())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=1000, help="steps in a timed scan")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="where to save the rows")
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measured(args.child, args.steps, args.rounds)))
        return
    rows = in_process(args.steps, args.rounds)
    show(rows, args.steps)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
