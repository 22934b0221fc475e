"""The regimes of the suite: sizes, weights, batches and dtypes, as data; a new one is a line.

Weights: `Random(gain)` has normal recurrent weights (W, R, and Q between layers) of standard
deviation gain/sqrt(n), which is what nets look like early on for a gain of one, and where
fixed-point iteration is slow for a gain of four. `Trained` are those of `trained.npz`
(`python -m benchmarks.train_weights`), with entries up to 20: where training spends its time.
"""

import dataclasses
import enum
import itertools
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

import irnn_jax as irnn
from benchmarks.train_weights import PATH
from irnn_jax.data import OscillatorData
from irnn_jax.networks.dense import Layer, Network

TOLERANCES = {"float64": 1e-10, "float32": 1e-5}
ACCEPTED = {"float64": 1e-6, "float32": 1e-3}  # relative error of the gradient
BATCHES = 16  # that a training goes round


class Task(enum.Enum):
    """What is timed."""

    TRAINING = "µs a training step of all runs"
    GRADIENT = "ms a gradient of all runs"
    FORWARD = "million equilibria a second"


class Weights(Protocol):
    """How networks with a leading axis of runs are drawn."""

    def draw(self, runs: int, sizes: tuple[int, ...]) -> Network: ...


@dataclasses.dataclass(frozen=True)
class Random:
    gain: float

    def __str__(self):
        return "fresh" if self.gain == 1 else f"gain {self.gain:g}"

    def draw(self, runs, sizes):
        rng = np.random.default_rng(0)
        n = sum(sizes[1:])

        def normal(*shape, scale):
            return rng.normal(size=(runs, *shape)) * scale

        recurrent = self.gain / np.sqrt(n)
        layers: list[Any] = []
        for i, (below, size) in enumerate(itertools.pairwise(sizes)):
            layers.append(
                Layer(
                    feedforward=normal(size, below, scale=recurrent if i else 2 / np.sqrt(below)),
                    lateral=normal(size, size, scale=recurrent),
                    bias=jnp.asarray(rng.uniform(-0.5, 0.5, size=(runs, size))),
                )
            )
        feedback = [normal(a, b, scale=recurrent) for a, b in itertools.pairwise(sizes[1:])]
        return Network(layers=tuple(layers), feedback=tuple(feedback))


@dataclasses.dataclass(frozen=True)
class Trained:
    def __str__(self):
        return "trained"

    def draw(self, runs, sizes):
        template = irnn.init(jax.random.key(0), sizes)
        with np.load(PATH) as arrays:
            leaves = [
                arrays[f"{sizes[1]}/{i}"][:runs] for i in range(len(jax.tree.leaves(template)))
            ]
        return jax.tree.unflatten(jax.tree.structure(template), leaves)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One setting in which all contenders are timed.

    Attributes:
        regime: the letter it is asked for by.
        learning_rate: of a training; small from trained weights, so that they stay what they are.
        quick: part of `--quick`.
        gpu_only: large enough to fill a GPU, and left out elsewhere.
    """

    regime: str
    task: Task
    sizes: tuple[int, ...]
    weights: Weights
    runs: int
    batch: int
    dtypes: tuple[str, ...] = ("float64",)
    learning_rate: float = 0.01
    quick: bool = False
    gpu_only: bool = False

    @property
    def n(self) -> int:
        """Neurons."""
        return sum(self.sizes[1:])

    @property
    def label(self) -> str:
        """What tables and figures call it."""
        sizes = "–".join(map(str, self.sizes))
        return f"({self.regime}) {sizes}, {self.weights}, {self.runs} × {self.batch:,}"


class Case(NamedTuple):
    """Inputs of a cell: networks (runs, ...), x (batches, runs, batch, inputs), targets."""

    net: Any
    x: Any
    target: Any


BOTH = ("float64", "float32")
TINY = (100, 5, 2)
CELLS = (
    Cell(
        regime="a", task=Task.TRAINING, sizes=TINY, weights=Random(1), runs=12, batch=6, quick=True
    ),
    Cell(
        regime="a",
        task=Task.TRAINING,
        sizes=TINY,
        weights=Trained(),
        runs=12,
        batch=6,
        dtypes=BOTH,
        learning_rate=1e-4,
        quick=True,
    ),
    *(
        Cell(
            regime="b",
            task=Task.GRADIENT,
            sizes=(100, hidden, 2),
            weights=weights,
            runs=12,
            batch=6,
            quick=hidden == 20,
        )
        for hidden in (10, 20, 30, 64)
        for weights in (Random(1), Trained())
    ),
    *(
        Cell(
            regime="c",
            task=Task.GRADIENT,
            sizes=(784, hidden, 10),
            weights=Random(gain),
            runs=1,
            batch=batch,
            dtypes=dtypes,
            quick=(hidden, batch, gain) == (256, 128, 1),
        )
        for hidden, batch, gain, dtypes in (
            (256, 128, 1, BOTH),
            (256, 128, 4, ("float64",)),
            (256, 1024, 1, ("float64",)),
            (256, 1024, 4, BOTH),
            (1024, 128, 1, ("float64",)),
            (1024, 128, 4, ("float64",)),
            (1024, 1024, 1, BOTH),
        )
    ),
    Cell(
        regime="d",
        task=Task.FORWARD,
        sizes=TINY,
        weights=Trained(),
        runs=12,
        batch=8000,
        dtypes=BOTH,
        quick=True,
    ),
    Cell(regime="d", task=Task.FORWARD, sizes=TINY, weights=Random(1), runs=12, batch=8000),
    *(
        Cell(
            regime="f",
            task=Task.GRADIENT,
            sizes=(100, hidden, 2),
            weights=Trained(),
            runs=12,
            batch=4096,
            dtypes=BOTH,
            gpu_only=True,
        )
        for hidden in (5, 10, 20, 30, 64)
    ),
)
# (e) is not a setting of its own: the stiff weights, in all the others.
REGIMES = ("a", "b", "c", "d", "e", "f")


def is_stiff(cell: Cell) -> bool:
    """Whether fixed-point iteration is slow or fails at the cell's weights."""
    return cell.weights != Random(1)


def draw(cell: Cell, dtype: str) -> Case:
    """The same numbers in each dtype: all are representable in float32."""
    net = cell.weights.draw(cell.runs, cell.sizes)
    batches = BATCHES if cell.task is Task.TRAINING else 1
    shape = (batches, cell.runs, cell.batch)
    inputs, outputs = cell.sizes[0], cell.sizes[-1]
    if inputs == OscillatorData().num_times:
        data = OscillatorData()
        index = jax.random.randint(jax.random.key(1), shape, 0, data.num_train)
        x, target = jax.jit(data.train)(index)
    else:
        # Like images of digits: most pixels dark, the others anything.
        rng = np.random.default_rng(1)
        x = rng.uniform(size=(*shape, inputs)) * (rng.uniform(size=(*shape, inputs)) < 0.3)
        target = rng.uniform(size=(*shape, outputs))
    rounded = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), Case(net, x, target))
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), rounded)
