"""Training steps of convolutional, wide and deep networks, beside their feed-forward twins.

    python -m benchmarks.network_steps
    python -m benchmarks.network_steps --only 14

Convolutional: one layer of maps with 3x3 kernels and a linear read-out of their means, batches of
64, float32, one step of `make_train_step` with Adam and the guard; `unrolled` is the same network
with the cell repeated for 8 steps and differentiated through them. Dense: a gradient of 100-32-2
for 2,048 samples, and a step of 12 runs of 100-5-5-5-5-2 with batches of 32, float64. *Fresh*
networks have W = R = 0; *strong* ones random recurrent weights, with which plain iteration takes
some tens of steps. Contenders take turns; times are the fastest.
"""

import argparse
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

import irnn_jax as irnn
from benchmarks.timing import machine, paired

UNROLLED = 8
ROUNDS = 7
IMAGES = ((8, 8), (14, 16), (28, 16))  # side, channels
BATCH = 64


def strengthened(net: Any, gain: float) -> Any:
    """With random recurrent weights, of standard deviation gain/sqrt(what meets in a neuron)."""
    rng = np.random.default_rng(0)

    def draw(path: Any, leaf: Any) -> Any:
        names = {getattr(key, "name", "") for key in path}
        if not names & {"lateral", "feedback"}:
            return leaf
        fan_in = leaf.size // (leaf.shape[-1] if leaf.ndim == 4 else leaf.shape[0])
        return jnp.asarray(rng.normal(size=leaf.shape) * gain / np.sqrt(fan_in), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, net)


def step_of(model: Any, batch: Any, **options: Any) -> Any:
    """A call of one compiled training step."""
    optimizer = irnn.adam(0.003)
    loss = optax.softmax_cross_entropy_with_integer_labels
    step = irnn.make_train_step(loss, optimizer, **options)
    state = irnn.TrainState.create(model, optimizer)
    return functools.partial(step, state, batch)


def unrolled_solve(model: Any, x: Any, probe: Any) -> Any:
    """The cell repeated, from Y = 0."""
    del probe
    net = model.network()
    drive, f = net.drive(x), (jax.nn.sigmoid,)
    y = (jnp.zeros_like(drive),)
    for _ in range(UNROLLED):
        y = net.step(y, drive, f)
    ended = jnp.ones(len(x), bool)
    found = irnn.Equilibrium(
        activities=y,
        residual=jnp.zeros(len(x)),
        num_steps=jnp.full(len(x), UNROLLED, jnp.int32),
        converged=ended,
        status=jnp.zeros(len(x), jnp.int32),
        sensitivity=jnp.ones(len(x)),
    )
    return irnn.read_out(model, y), found


def convolutional(side: int, channels: int, gain: float) -> dict[str, Any]:
    key = jax.random.key(0)

    def model(recurrent: bool) -> Any:
        net = irnn.conv.init(key, (side, side, 1), (channels,), recurrent=recurrent)
        return irnn.with_readout(key, strengthened(net, gain), 10)

    x = jax.random.normal(key, (BATCH, side, side, 1))
    batch = x, jnp.arange(BATCH) % 10
    return {
        "twin": step_of(model(False), batch),
        "unrolled": step_of(model(True), batch, solve=unrolled_solve, guard=None),
        "implicit": step_of(model(True), batch),
    }


def wide(gain: float) -> dict[str, Any]:
    key = jax.random.key(0)
    x, target = jax.random.normal(key, (2048, 100)), jnp.full((2048, 2), 0.5)

    def gradient_of(recurrent: bool) -> Any:
        net = strengthened(irnn.init(key, (100, 32, 2), recurrent=recurrent), gain)
        loss = lambda net: jnp.mean((irnn.apply(net, x) - target) ** 2)  # noqa: E731
        return functools.partial(jax.jit(jax.grad(loss)), net)

    return {"twin": gradient_of(False), "implicit": gradient_of(True)}


def deep(gain: float) -> dict[str, Any]:
    keys = jax.random.split(jax.random.key(0), 12)
    x = jax.random.normal(keys[0], (12, 32, 100))
    batch = x, jnp.full((12, 32, 2), 0.5)

    def steps_of(recurrent: bool) -> Any:
        optimizer = irnn.adam(0.003)
        step = jax.jit(jax.vmap(irnn.make_train_step(irnn.squared_error, optimizer)))

        def start(key: Any) -> irnn.TrainState:
            sizes = (100, 5, 5, 5, 5, 2)
            net = irnn.init(key, sizes, recurrent=recurrent, initialization="glorot")
            return irnn.TrainState.create(strengthened(net, gain), optimizer)

        return functools.partial(step, jax.vmap(start)(keys), batch)

    return {"twin": steps_of(False), "implicit": steps_of(True)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="lines with this in their name")
    args = parser.parse_args()
    lines = {
        f"{side}x{side}x{channels} {name}": (functools.partial(convolutional, side, channels, gain))
        for side, channels in IMAGES
        for name, gain in (("fresh", 0.0), ("strong", 3.0))
    }
    for name, gain in (("fresh", 0.0), ("strong", 2.0)):
        lines[f"100-32-2 x 2048 {name}, float64"] = functools.partial(wide, gain)
        lines[f"12 x 100-5-5-5-5-2 x 32 {name}, float64"] = functools.partial(deep, gain)
    table = Table(title="One training step, or one gradient")
    for column in ("", "twin, ms", "implicit, ms", "× twin", "× unrolled"):
        table.add_column(column, justify="right" if column else "left")
    console = Console(width=130)
    for name, make in lines.items():
        if args.only not in name:
            continue
        with jax.enable_x64(name.endswith("float64")):
            calls = make()
            for call in calls.values():
                jax.block_until_ready(call())
            times = {key: t.fastest for key, t in paired(calls, ROUNDS).items()}
        ours = times["implicit"]
        unrolled = f"{ours / times['unrolled']:.2f}" if "unrolled" in times else ""
        twin = times["twin"]
        table.add_row(
            name, f"{twin * 1e3:.2f}", f"{ours * 1e3:.2f}", f"{ours / twin:.1f}", unrolled
        )
    console.print(table)
    console.print(machine())


if __name__ == "__main__":
    main()
