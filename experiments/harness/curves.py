"""The training of one network as curves: trained on an epoch at a time, tested on the way."""

from typing import Any, NamedTuple

import numpy as np
from omegaconf import DictConfig

from experiments.harness import training, vary
from experiments.harness.progress import Display
from experiments.harness.recording import Recording
from experiments.harness.training import Averages, Train


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


def train_runs(
    train: Train, config: DictConfig, unit: str, recording: Recording, display: Display
) -> Curves:
    """All runs of one network side by side; `unit` is what its training is called on record."""
    keys, numbers = vary.lanes(config, config.num_runs)
    total, size = config.num_epochs, config.steps_per_epoch
    label = f"{config.name} {unit}"
    trained, tested, epochs = [], [], []
    for number, averages, test in training.run(
        train._replace(numbers=numbers),
        keys,
        name=unit,
        num_epochs=total,
        steps_per_epoch=size,
        eval_every=config.eval_every,
        recording=recording,
        checkpoint_every=config.checkpoint_every,
        task=display.task(label, total=total, unit="epoch", size=size, of="steps"),
    ):
        row: dict[str, Any] = {"network": unit, "epoch": number}
        for kind, values, kept in (("train", averages, trained), ("test", test, tested)):
            if values is not None:
                training.require_equilibria(label, values.converged)
                row |= {f"{kind}_{field}": leaf for field, leaf in values._asdict().items()}
                kept.append(values)
        recording.row(**row)  # one number a run
        epochs += [number] if test is not None else []
    return Curves(
        training=training.stack(trained),
        epochs=np.array(epochs),
        test=training.stack(tested),
        num_parameters=training.num_parameters(train),
    )
