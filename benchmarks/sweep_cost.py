"""What more seeds cost: one run, and N runs side by side in one program, against N times one.

    python -m benchmarks.sweep_cost

The pendulum's exact network, as in figure 6; compilation apart. Rounds take turns (timing.py).
"""

import functools

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

import irnn_jax as irnn
from benchmarks.timing import machine, paired
from irnn_jax.data import OscillatorData

COUNTS = (1, 12, 48)
STEPS, BATCH, ROUNDS = 200, 6, 5


def make_training():
    """`start(key)` and `epoch(states, keys)` of the exact network."""
    data = OscillatorData()
    optimizer = irnn.adam(0.01)
    step = irnn.make_train_step(irnn.squared_error, optimizer)

    def start(key):
        net = irnn.init(key, sizes=(data.num_times, 5, 2))
        return irnn.TrainState.create(net, optimizer)

    def sample(key):
        return data.train(jax.random.randint(key, (BATCH,), 0, data.num_train, dtype=jnp.int32))

    epoch = functools.partial(irnn.run_epoch, step=step, sample=sample, num_steps=STEPS)
    return start, jax.jit(jax.vmap(epoch))


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    start, epoch = make_training()
    contenders = {}
    for count in COUNTS:
        keys = jax.random.split(jax.random.key(0), count)
        states = jax.jit(jax.vmap(start))(keys)
        contenders[str(count)] = functools.partial(epoch, states, keys)
    timings = paired(contenders, ROUNDS)
    one = timings["1"]
    table = Table(title=f"{STEPS} steps, batch {BATCH}, 100-5-2, float64; {machine()}")
    for column in ("runs", "ms", "ms a run", "N × one run, ms", "saved", "with compilation"):
        table.add_column(column, justify="right")
    for name, timing in timings.items():
        count = int(name)
        table.add_row(
            name,
            f"{1e3 * timing.median:.1f}",
            f"{1e3 * timing.median / count:.2f}",
            f"{1e3 * one.median * count:.1f}",
            f"{one.median * count / timing.median:.1f} times",
            # N separate programs compile N times; one program once.
            f"{one.first * count / timing.first:.1f} times",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
