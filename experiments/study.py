"""A study of your own: feed-forward, semi-gradient and exact networks on any data set.

    python -m experiments.study data=digits model.hidden=[20]
    python -m experiments.study data=digits model=conv loss=softmax_cross_entropy

`data` names a function that returns (train x, train y, test x, test y). Integer labels are classes:
each has an output of its own, and the fraction of right answers is reported. Anything else is
regression, to targets in [0, 1], which is where a sigmoid can go, or to any with a read-out.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray
from omegaconf import DictConfig

from experiments import runner
from experiments.report import sweep
from experiments.report.content import Section
from experiments.report.study import present
from experiments.report.sweep import Outcome


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
        raise runner.BadConfig(
            "a study needs data: data=digits, or data._target_ naming a function that returns "
            "(train x, train y, test x, test y)"
        )
    arrays = [np.asarray(array) for array in runner.make(config.data)]
    if len(arrays) != 4:
        raise runner.BadConfig(
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
            raise runner.BadConfig(f"{len(x)} {kind} inputs, but {len(y)} {kind} targets")
    if train_x.shape[1:] != test_x.shape[1:] or train_y.shape[1:] != test_y.shape[1:]:
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise runner.BadConfig(f"train and test samples differ in shape: {shapes}")
    reads_out = runner.reads_out(config)
    if not classes and not reads_out and not (train_y.min() >= 0 and train_y.max() <= 1):
        raise runner.BadConfig(
            f"targets must lie in [0, 1], where a sigmoid can go; these reach from "
            f"{train_y.min():g} to {train_y.max():g} (model.readout=linear goes anywhere)"
        )
    return Data(train=(train_x, train_y), test=(test_x, test_y), classes=classes)


def make_train(config: DictConfig, network: DictConfig, data: Data) -> runner.Train:
    """Build one network's training, pure: `jit` it, `vmap` it over runs."""
    loss = runner.make(config.loss)
    # Floats of the default width, which x64 sets.
    x, target = (jnp.asarray(array, float) for array in data.train)
    sizes = (x.shape[1], *config.model.hidden, target.shape[1])
    x = runner.laid_out(config, x)
    trainer = runner.vary.trainer(config, network, loss, sizes)

    def sample(key: PRNGKeyArray) -> tuple[Array, Array]:
        index = jax.random.randint(key, (config.batch_size,), 0, len(x), dtype=jnp.int32)
        return x[index], target[index]

    def measure(output: Array, target: Array) -> tuple[Array, Array]:
        return loss(output, target), jnp.argmax(output) == jnp.argmax(target)

    def evaluate(net: runner.NetworkLike) -> Test:
        x, target = (jnp.asarray(array, float) for array in data.test)
        found = runner.evaluate_in_chunks(
            net,
            (runner.laid_out(config, x), target),
            measure,
            solver=trainer.solver,
            activation=trainer.activation,
            num_test=len(x),
            chunk=config.test_chunk,
        )
        error, accuracy = found.means
        return Test(
            error=error,
            accuracy=accuracy if data.classes else jnp.nan * accuracy,
            converged=found.converged,
            solver_steps=found.solver_steps,
        )

    return runner.Train(
        init=trainer.init,
        step=trainer.step,
        sample=sample,
        evaluate=evaluate,
        one_by_one=runner.is_convolutional(config),
    )


def run(config: DictConfig, recording: runner.Recording) -> Section:
    """Train and test every network of the configuration."""
    data = load(config)
    curves = {
        name: runner.train_runs(make_train(config, network, data), config, name, recording)
        for name, network in config.networks.items()
    }
    if config.vary:
        return sweep.present(
            {n: Outcome(c.test.error[-1], c.test.converged[-1]) for n, c in curves.items()},
            question=f"{config.data._target_}, {config.num_epochs} epochs: what do "
            f"{' and '.join(map(str, config.vary))} change in the test error?",
            config=config,
            folder=recording.folder,
        )
    shapes = (data.train[0].shape, data.test[0].shape, data.train[1].shape[1])
    return present(curves, shapes, config=config, folder=recording.folder)


main = runner.command("study", study=runner.Experiment(run, runner.Epochs))

if __name__ == "__main__":
    main()
