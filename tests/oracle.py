"""Reference numbers: equilibria of sigmoid networks and their derivatives, made without JAX.

All 67 cases lie beside the checkout where they are to be had, and 40 of them, the smaller ones, in
`tests/reference`. Made by mpmath with 60 digits, without automatic differentiation.

To compile few programs, cases are padded to one of five layouts with neurons and inputs that have
no weights: a neuron at f(0) = 1/2 that nothing listens to and no loss looks at.
"""

import functools
import json
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import irnn_jax as irnn

COPY = pathlib.Path(__file__).resolve().parent / "reference"
ALL = COPY.parents[2] / "shared" / "oracle"
ORACLE = ALL if ALL.is_dir() else COPY
LAYOUTS = ((100, 1), (10, 7), (100, 40), (100, 5, 3), (100, 32, 10))
BATCH = 4


class Case(NamedTuple):
    """One case: `arrays` as stored, `info` its entry in the index."""

    net: irnn.Network
    x: np.ndarray
    arrays: dict[str, np.ndarray]
    info: dict[str, Any]

    @property
    def activities(self) -> tuple[np.ndarray, ...]:
        """The equilibrium, from the first hidden layer to the output."""
        letters = ("Y",) if "Y" in self.arrays else ("Y2", "Y1")
        return tuple(self.arrays[letter] for letter in letters)


class Padded(NamedTuple):
    """A case in its layout, with the weights that make its loss a plain sum."""

    net: irnn.Network
    x: jax.Array
    target: jax.Array
    weight: jax.Array


@functools.cache
def index(folder: pathlib.Path = ORACLE) -> dict[str, dict[str, Any]]:
    """All cases by name."""
    cases = json.loads((folder / "index.json").read_text())["cases"]
    return {case["name"]: case for case in cases}


def names(*, converges: bool) -> list[str]:
    """Sorted by layout, so that programs are reused."""
    chosen = [name for name, info in index().items() if info["converges"] is converges]
    return sorted(chosen, key=lambda name: (layout(name), name))


@functools.cache
def load(name: str) -> Case:
    info = index()[name]
    with np.load(ORACLE / info["file"]) as file:
        arrays = dict(file)
    return Case(net=as_network(arrays), x=arrays["X"], arrays=arrays, info=info)


def as_network(arrays: dict[str, np.ndarray], prefix: str = "") -> irnn.Network:
    """The arrays named `prefix` + a letter of the paper: a network, or derivatives like it."""

    def layer(number: str) -> irnn.Layer:
        Q, W, T = (jnp.asarray(arrays[prefix + letter + number]) for letter in "QWT")
        return irnn.Layer(feedforward=Q, lateral=W, bias=T)

    if prefix + "Q" in arrays:
        return irnn.Network(layers=(layer(""),))
    R = jnp.asarray(arrays[prefix + "R"])
    return irnn.Network(layers=(layer("2"), layer("1")), feedback=(R,))


def sizes(name: str) -> tuple[int, ...]:
    stored = index()[name]["sizes"]
    return tuple(stored[key] for key in ("m", "n", "hidden", "out") if key in stored)


def layout(name: str) -> tuple[int, ...]:
    """The first layout that holds the case."""

    def holds(large: tuple[int, ...]) -> bool:
        small = sizes(name)
        return len(large) == len(small) and all(map(int.__le__, small, large))

    return next(filter(holds, LAYOUTS))


def pad(array: Any, shape: tuple[int, ...]) -> jax.Array:
    """Append zeros."""
    widths = [(0, big - small) for small, big in zip(np.shape(array), shape, strict=True)]
    return jnp.pad(jnp.asarray(array), widths)


def crop(tree: Any, like: Any) -> Any:
    """The leading block of each leaf, as large as that of `like`."""
    return jax.tree.map(lambda leaf, example: leaf[tuple(map(slice, example.shape))], tree, like)


@functools.cache
def padded(name: str) -> Padded:
    case, large = load(name), layout(name)
    shapes = jax.eval_shape(lambda: irnn.init(jax.random.key(0), large))
    # The last input again, without weight in the loss: zeros need not have an equilibrium.
    rows = np.minimum(np.arange(BATCH), len(case.x) - 1)
    target = case.arrays.get("target", np.zeros((len(case.x), case.net.sizes[-1])))
    return Padded(
        net=jax.tree.map(lambda leaf, to: pad(leaf, to.shape), case.net, shapes),
        x=pad(case.x[rows], (BATCH, large[0])),
        target=pad(target, (BATCH, large[-1])),
        weight=pad(np.full(target.shape, 1 / target.size), (BATCH, large[-1])),
    )
