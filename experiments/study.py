"""A study of your own: feed-forward, semi-gradient and exact networks on any data set.

    python -m experiments.study data=digits model.hidden=[20]

`data` names a function that returns (train x, train y, test x, test y). Integer labels are classes:
each has an output of its own, and the fraction of right answers is reported. Anything else is
regression, to targets in [0, 1], which is where a sigmoid can go.
"""

import sys
from pathlib import Path
from typing import Any, NamedTuple

if not __package__:  # run as a file: Python then puts experiments/ on the path, not its parent
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray
from omegaconf import DictConfig

import irnn_jax as irnn
from experiments.harness import training, vary
from experiments.harness.curves import train_runs
from experiments.harness.devices import lay_samples
from experiments.harness.entry import entry
from experiments.harness.errors import BadConfig
from experiments.harness.launch import Experiments
from experiments.harness.progress import Display
from experiments.harness.recording import Recording
from experiments.harness.training import Train
from experiments.harness.vary import Numbers
from experiments.show import sweep
from experiments.show.content import Section
from experiments.show.study import present
from experiments.show.sweep import Outcome
from irnn_jax.network import NetworkLike


class Data(NamedTuple):
    """Inputs (samples, inputs) and targets (samples, outputs); are the outputs classes?"""

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    classes: bool


class Test(NamedTuple):
    """One network on all test samples, over those that converged; NaN if none did."""

    error: Any  # the loss
    accuracy: Any  # fraction of right classes; NaN without classes
    converged: Any  # fraction of the samples
    solver_steps: Any  # per sample


def load(config: DictConfig) -> Data:
    """The data set that the configuration names, checked."""
    if config.get("data") is None:
        raise BadConfig(
            "a study needs data: data=digits, or data._target_ naming a function that returns "
            "(train x, train y, test x, test y)"
        )
    arrays = [np.asarray(array) for array in training.make(config.data)]
    if len(arrays) != 4:
        raise BadConfig(
            f"{config.data._target_} must return (train x, train y, test x, test y), "
            f"but returned {len(arrays)} arrays"
        )
    train_x, train_y, test_x, test_y = (a.reshape(len(a), -1) for a in arrays)
    classes = bool(np.issubdtype(arrays[1].dtype, np.integer) and train_y.shape[1] == 1)
    if classes:
        count = int(max(train_y.max(), test_y.max())) + 1
        train_y, test_y = (np.eye(count)[y[:, 0]] for y in (train_y, test_y))
    for kind, x, y in (("train", train_x, train_y), ("test", test_x, test_y)):
        if len(x) != len(y) or not len(x):
            raise BadConfig(f"{len(x)} {kind} inputs, but {len(y)} {kind} targets")
    if train_x.shape[1:] != test_x.shape[1:] or train_y.shape[1:] != test_y.shape[1:]:
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise BadConfig(f"train and test samples differ in shape: {shapes}")
    if not classes and not (train_y.min() >= 0 and train_y.max() <= 1):
        raise BadConfig(
            f"targets must lie in [0, 1], where a sigmoid can go; these reach from "
            f"{train_y.min():g} to {train_y.max():g}"
        )
    return Data(train=(train_x, train_y), test=(test_x, test_y), classes=classes)


def make_train(config: DictConfig, network: DictConfig, data: Data) -> Train:
    """Build one network's training, pure: `jit` it, `vmap` it over runs."""
    loss = training.make(config.loss)
    trainer = vary.trainer(config, network, loss)
    # Floats of the default width, which x64 sets.
    x, target = (jnp.asarray(array, float) for array in data.train)
    sizes = (x.shape[1], *config.model.hidden, target.shape[1])

    def init(key: PRNGKeyArray, numbers: Numbers | None = None) -> irnn.TrainState:
        return trainer.start(training.draw(config, network, key, sizes), numbers)

    def sample(key: PRNGKeyArray) -> tuple[Array, Array]:
        index = jax.random.randint(key, (config.batch_size,), 0, len(x), dtype=jnp.int32)
        return x[index], target[index]

    def evaluate(net: NetworkLike) -> Test:
        x, target = (jnp.asarray(array, float) for array in data.test)
        count, size = len(x), min(config.test_chunk, len(x))

        def chunk(first: Array) -> tuple[Array, ...]:
            index = first + jnp.arange(size)
            wanted = index < count  # the last chunk may reach beyond
            index = jnp.minimum(index, count - 1)
            inputs, wants = lay_samples((x[index], target[index]))
            result = irnn.equilibrium(net, inputs, solver=trainer.solver)
            used = wanted & result.converged
            output = result.activities[-1]
            errors = jax.vmap(loss)(output, wants)
            right = jnp.argmax(output, axis=1) == jnp.argmax(wants, axis=1)
            steps = jnp.where(wanted, result.num_steps, 0)
            return (
                jnp.sum(jnp.where(used, errors, 0)),
                jnp.sum(used & right),
                jnp.sum(used),
                jnp.sum(steps),
            )

        sums = jax.lax.map(chunk, jnp.arange(0, count, size))
        error, right, used, steps = (jnp.sum(leaf) for leaf in sums)
        return Test(
            error=error / used,
            accuracy=right / used if data.classes else jnp.nan * used,
            converged=used / count,
            solver_steps=steps / count,
        )

    return Train(init=init, step=trainer.step, sample=sample, evaluate=evaluate)


def run(config: DictConfig, recording: Recording, display: Display) -> Section:
    """Train and test every network of the configuration."""
    data = load(config)
    curves = {
        name: train_runs(make_train(config, network, data), config, name, recording, display)
        for name, network in config.networks.items()
    }
    if config.vary:
        return sweep.present(
            {
                name: Outcome(error=c.test.error[-1], converged=c.test.converged[-1])
                for name, c in curves.items()
            },
            question=f"{config.data._target_}, {config.num_epochs} epochs: what do "
            f"{' and '.join(map(str, config.vary))} change in the test error?",
            config=config,
            folder=recording.folder,
        )
    shapes = (data.train[0].shape, data.test[0].shape, data.train[1].shape[1])
    return present(curves, shapes, config=config, folder=recording.folder)


@entry("study")
def main(config: DictConfig) -> Experiments:
    return {config.name: (run, config)}


if __name__ == "__main__":
    main()
