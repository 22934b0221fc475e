"""The right equilibrium, or a flag? By default, on families in which small differences decide.

The reference is a flow of its own: diffrax's Dopri8 with errors of 1e-11, in float64, to t = 2000
or to where max|dY/dt| <= 1e-11; it rests where that is at most 1e-8 and no eigenvalue of D A has a
real part of one or more. Of the samples whose flow rests are counted those that come back converged
and at the same equilibrium (within 1e-4), at an unstable one, and at another; those that are
flagged, and how many of these as sensitive. Beside them *ghosts*: converged though the flow does
not rest, and the time of a solve over that of one without checks of stability.

    python -m benchmarks.trust                          # hours: 100,000 samples and more
    python -m benchmarks.trust --networks 1 --batch 50
    python -m benchmarks.trust --only competition --sizes 3 40 --as cells --dtype float32

Networks, each with a batch of drives: dense ones; `cells`, the same matrices known by products
alone; `vmapped`, a network for each sample; `images`, convolutional cells of 6 x 6 places.
"""

import argparse
import dataclasses
import functools
import time
import zlib

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

import irnn_jax as irnn
from benchmarks.families import FAMILIES
from benchmarks.timing import machine

SIZES = (1, 3, 20, 40, 128)
FORMS = ("dense", "cells", "vmapped", "images")
ACTIVATIONS = {"sigmoid": jax.nn.sigmoid, "tanh": jnp.tanh}
AT_REST, SAME, HORIZON = 1e-8, 1e-4, 2000.0
SIDE, KERNEL = 6, 3


@dataclasses.dataclass
class Counts:
    samples: int = 0
    rests: int = 0
    converged: int = 0
    same: int = 0
    unstable: int = 0
    another: int = 0
    flagged: int = 0
    sensitive: int = 0
    ghosts: int = 0
    seconds: float = 0.0
    unchecked: float = 0.0

    def __add__(self, other: "Counts") -> "Counts":
        mine, its = dataclasses.astuple(self), dataclasses.astuple(other)
        return Counts(*(a + b for a, b in zip(mine, its, strict=True)))


def convolved(kernel, y):
    """A lateral convolution of one image, flat."""
    image = y.reshape(1, SIDE, SIDE, -1)
    out = jax.lax.conv_general_dilated(
        image, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return out.reshape(y.shape)


def product_of(form):
    """(weights, y) -> A y of one sample."""
    return convolved if form == "images" else jnp.matmul


@functools.cache
def flow(form, name):
    """(weights, drives) -> where the flow ends and its speed there, for a batch."""
    f, product = ACTIVATIONS[name], product_of(form)

    def one(weights, b):
        def velocity(t, y, args):
            del t, args
            return f(product(weights, y) + b) - y

        def at_rest(t, y, args, **kwargs):
            del kwargs
            return jnp.max(jnp.abs(velocity(t, y, args))) <= 1e-11

        found = diffrax.diffeqsolve(
            diffrax.ODETerm(velocity),
            diffrax.Dopri8(),
            0.0,
            HORIZON,
            None,
            jnp.zeros_like(b),
            stepsize_controller=diffrax.PIDController(rtol=1e-11, atol=1e-14),
            event=diffrax.Event(at_rest),
            max_steps=40_000,
            throw=False,
        )
        assert found.ys is not None
        y = found.ys[-1]
        return y, jnp.max(jnp.abs(velocity(0.0, y, None)))

    axes = (0 if form == "vmapped" else None, 0)
    return jax.jit(jax.vmap(one, axes))


@functools.cache
def stays(form, name):
    """(weights, drives, states) -> whether no eigenvalue of D A has a real part of one or more."""
    f, product = ACTIVATIONS[name], product_of(form)

    def jacobian(weights, b, y):
        return jax.jacobian(lambda y: f(product(weights, y) + b))(y)

    jacobians = jax.jit(jax.vmap(jacobian, (0 if form == "vmapped" else None, 0, 0)))

    def check(weights, b, y):
        y = np.where(np.isfinite(y), y, 0)
        values = np.linalg.eigvals(np.asarray(jacobians(weights, b, y)))
        return values.real.max(-1) < 1

    return check


@functools.cache
def solver(form, name, checked):
    """(weights, drives) -> states, flags and status, for a batch."""
    f = ACTIVATIONS[name]

    def dense(weights, b):
        n = len(weights)
        layer = irnn.Layer(feedforward=jnp.eye(n, dtype=b.dtype), lateral=weights, bias=0 * b[0])
        net = irnn.Network(layers=(layer,))
        found = irnn.equilibrium(net, b, activation=f, check_stability=checked)
        return found.activities[0], found

    def cells(weights, b):
        product = jax.vmap(product_of(form), (None, 0))
        found = irnn.fixed_point(
            lambda p, y, x: f(product(p, y) + x),
            weights,
            b,
            jnp.zeros_like(b),
            batched=True,
            check_stability=checked,
        )
        return found.activities, found

    def vmapped(weights, b):
        return jax.vmap(lambda w, b: jax.tree.map(lambda leaf: leaf[0], dense(w, b[None])))(
            weights, b
        )

    solve = {"dense": dense, "cells": cells, "vmapped": vmapped, "images": cells}[form]

    def run(weights, b):
        y, found = solve(weights, b)
        return y, found.converged, found.status

    return jax.jit(run)


def drawn(family, form, n, count, seed):
    """Weights and drives, representable in float32."""
    rng = np.random.default_rng([seed, n, zlib.crc32(family.encode())])
    draw = FAMILIES[family].draw
    if form == "vmapped":
        pairs = [draw(rng, n, 1) for _ in range(count)]
        weights, b = np.stack([a for a, _ in pairs]), np.concatenate([b for _, b in pairs])
    elif form == "images":
        channels = max(1, n // SIDE**2)
        matrix, b = draw(rng, channels * KERNEL**2, 1)
        weights = matrix[:, :channels].reshape(KERNEL, KERNEL, channels, channels)
        b = rng.choice(b[0], size=(count, SIDE**2 * channels))
    else:
        weights, b = draw(rng, n, count)
    return np.float64(np.float32(weights)), np.float64(np.float32(b))


def timed(run, *arguments):
    jax.block_until_ready(run(*arguments))
    begin = time.perf_counter()
    out = jax.block_until_ready(run(*arguments))
    return out, time.perf_counter() - begin


def counted(family, form, n, count, dtype, seed):
    """The counts of one network, or of one batch of them."""
    weights, b = drawn(family, form, n, count, seed)
    name = FAMILIES[family].activation
    end, speed = map(np.asarray, flow(form, name)(weights, b))
    given = jnp.asarray(weights, dtype), jnp.asarray(b, dtype)
    (y, ok, status), seconds = timed(solver(form, name, True), *given)
    _, unchecked = timed(solver(form, name, False), *given)
    y, ok, status = np.asarray(y, np.float64), np.asarray(ok), np.asarray(status)
    rests = (speed <= AT_REST) & stays(form, name)(weights, b, end)
    same = np.max(np.abs(y - end), -1) <= (SAME if dtype == "float64" else 1e-2)
    stable = stays(form, name)(weights, b, y)
    counts = {
        "samples": count,
        "rests": rests.sum(),
        "converged": (rests & ok).sum(),
        "same": (rests & ok & same).sum(),
        "unstable": (ok & ~stable).sum(),
        "another": (rests & ok & ~same & stable).sum(),
        "flagged": (rests & ~ok).sum(),
        "sensitive": (rests & (status == irnn.Status.SENSITIVE)).sum(),
        "ghosts": (ok & ~rests).sum(),
    }
    counts = {key: int(value) for key, value in counts.items()}
    return Counts(**counts, seconds=seconds, unchecked=unchecked)


def parsed():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", nargs="*", default=list(FAMILIES), help="families")
    parser.add_argument("--sizes", nargs="*", type=int, default=SIZES)
    parser.add_argument("--as", dest="forms", nargs="*", default=FORMS, choices=FORMS)
    parser.add_argument("--dtype", nargs="*", default=("float64", "float32"))
    parser.add_argument("--networks", type=int, default=4, help="of each kind")
    parser.add_argument("--batch", type=int, default=100)
    return parser.parse_args()


def main():
    jax.config.update("jax_enable_x64", True)
    options, console = parsed(), Console(width=150)
    totals = {}
    for family in options.only:
        for form in options.forms:
            for n in options.sizes:
                if form == "images" and n != max(options.sizes):
                    continue
                for dtype in options.dtype:
                    for seed in range(options.networks):
                        counts = counted(family, form, n, options.batch, dtype, seed)
                        for key in ((family, ""), (f"n = {n}", form), ("all", dtype)):
                            totals[key] = totals.get(key, Counts()) + counts
                        if counts.unstable or counts.another:
                            console.print(f"{family}, {form}, n = {n}, {dtype}, {seed}: {counts}")
    table = Table(title="By default, of the samples whose flow rests")
    names = [field.name for field in dataclasses.fields(Counts)][:-2]
    for column in ("", "", *names, "× unchecked"):
        table.add_column(column, justify="right")
    for key in sorted(totals, key=lambda key: (key[0].startswith("n ="), key[0] == "all")):
        counts = totals[key]
        ratio = counts.seconds / counts.unchecked
        numbers = (f"{getattr(counts, name):,}" for name in names)
        table.add_row(*key, *numbers, f"{ratio:.2f}")
    console.print(table)
    console.print(machine())


if __name__ == "__main__":
    main()
