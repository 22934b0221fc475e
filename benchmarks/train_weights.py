"""Train the networks whose weights `benchmarks/trained.npz` holds: stiff ones.

The damped oscillator at the paper's settings: 12 runs, batch 6, Adam 0.01, float64. Training
spends nearly all of its time at such weights, and fixed-point iterations fail on them.

    python -m benchmarks.train_weights
"""

import argparse
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np

import irnn_jax as irnn
from irnn_jax.data import OscillatorData
from irnn_jax.networks.dense import connections

PATH = pathlib.Path(__file__).with_name("trained.npz")
BATCH = 6
STEPS = {5: 20_000, 10: 20_000, 20: 4_000, 30: 4_000, 64: 1_000}  # hidden neurons: steps


def train(hidden, num_steps, runs):
    """Networks (runs, ...) after training."""
    data = OscillatorData()

    def sample(key):
        return data.train(jax.random.randint(key, (BATCH,), 0, data.num_train))

    optimizer = irnn.adam(0.01)
    step = irnn.make_train_step(irnn.squared_error, optimizer)
    keys = jax.random.split(jax.random.key(0), runs)

    def start(key):
        return irnn.TrainState.create(irnn.init(key, (100, hidden, 2)), optimizer)

    states = jax.vmap(start)(keys)
    states, metrics = irnn.fit(
        states, keys, step=step, sample=sample, num_epochs=1, num_steps=num_steps
    )
    return states.net, metrics


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", type=int, nargs="+", default=list(STEPS), choices=STEPS)
    parser.add_argument("--runs", type=int, default=12)
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)

    arrays = dict(np.load(PATH)) if PATH.exists() else {}
    for hidden in args.hidden:
        begin = time.perf_counter()
        net, metrics = jax.block_until_ready(train(hidden, STEPS[hidden], args.runs))
        largest = jnp.max(jnp.abs(jax.vmap(lambda net: connections(net, jnp.float64))(net)))
        print(
            f"{hidden} hidden, {STEPS[hidden]:,} steps: loss {metrics.loss[..., -100:].mean():.4f},"
            f" max|A| {largest:.0f}, {time.perf_counter() - begin:.0f} s",
            flush=True,
        )
        # Half the file, and float32 contenders start from the very same numbers.
        for i, leaf in enumerate(jax.tree.leaves(net)):
            arrays[f"{hidden}/{i}"] = np.asarray(leaf, np.float32)
    np.savez_compressed(PATH, **arrays)


if __name__ == "__main__":
    main()
