"""The training of one network as curves: trained on an epoch at a time, tested on the way."""

from typing import Any, NamedTuple

import jax
import numpy as np
from omegaconf import DictConfig

from experiments.runner import training, vary
from experiments.runner.history import Averages, stack
from experiments.runner.networks import num_parameters
from experiments.runner.program import Train
from experiments.runner.recording import Recording


class Curves(NamedTuple):
    """One network's training.

    Attributes:
        training: leaves (epochs, runs).
        epochs: after which the network was tested, (tests,).
        test: what `Train.evaluate` says, a NamedTuple with `error` and `converged`, leaves
            (tests, runs).
        num_parameters: of one network.
    """

    training: Averages
    epochs: np.ndarray
    test: Any
    num_parameters: int


def train_runs(train: Train, config: DictConfig, unit: str, recording: Recording) -> Curves:
    """All runs of one network side by side; `unit` is what its training is called on record."""
    keys, numbers = vary.lanes(config, config.num_runs)
    total, size = config.num_epochs, config.steps_per_epoch
    label = f"{config.name} {unit}"
    epochs = []
    for epoch in training.run(
        train._replace(numbers=numbers),
        keys,
        name=unit,
        num_epochs=total,
        steps_per_epoch=size,
        eval_every=config.eval_every,
        recording=recording,
        checkpoint_every=config.checkpoint_every,
        task=recording.display.task(label, total=total, unit="epoch", size=size, of="steps"),
    ):
        row: dict[str, Any] = {"network": unit, "epoch": epoch.number}
        for kind, values in (("train", epoch.training), ("test", epoch.evaluation)):
            if values is not None:
                training.require_equilibria(label, values.converged)
                row |= {f"{kind}_{field}": leaf for field, leaf in values._asdict().items()}
        recording.row(**row)  # one number a run
        epochs.append(epoch)
    tested = [epoch for epoch in epochs if epoch.evaluation is not None]
    return Curves(
        training=stack([epoch.training for epoch in epochs[1:]]),
        epochs=np.array([epoch.number for epoch in tested]),
        test=stack([epoch.evaluation for epoch in tested]),
        num_parameters=num_parameters(jax.eval_shape(train.init, jax.random.key(0)).net),
    )
