"""Figure 6 under other readings of what the paper leaves open: does the order of errors change?"""

import sys
from pathlib import Path

if not __package__:  # run as a file: Python then puts experiments/ on the path, not its parent
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments import pendulum
from experiments.harness.curves import Curves, train_runs
from experiments.harness.entry import entry
from experiments.harness.errors import BadConfig
from experiments.harness.launch import Experiments
from experiments.harness.progress import Display
from experiments.harness.recording import Recording
from experiments.show.choices import present
from experiments.show.content import Section


def run(config: DictConfig, recording: Recording, display: Display) -> Section:
    """Train and test every network under every reading."""
    if config.vary:
        raise BadConfig("choices compares readings alone; vary is for experiments.pendulum")
    read = {name: reading(config, changes or {}) for name, changes in config.readings.items()}
    for changed in read.values():
        pendulum.require_test_samples(changed)
    curves: dict[str, dict[str, Curves]] = {}
    for name, changed in read.items():
        curves[str(name)] = {
            network: train_runs(
                pendulum.make_train(changed, node),
                changed,
                f"{network}-{name}",
                recording,
                display,
            )
            for network, node in changed.networks.items()
        }
    return present(curves, config=config, folder=recording.folder)


def reading(config: DictConfig, changes: Mapping[str, Any]) -> DictConfig:
    """The pendulum experiment with some of its values, by dotted key, replaced as a whole."""
    changed = config.copy()
    for key, value in changes.items():
        if OmegaConf.select(config, str(key), default=changes) is changes:
            raise BadConfig(f"readings: there is no {key} in the configuration (see --cfg job)")
        # Not merged: another solver has other arguments.
        OmegaConf.update(changed, str(key), value, merge=False)
    return changed


@entry("choices")
def main(config: DictConfig) -> Experiments:
    return {"choices": (run, config)}


if __name__ == "__main__":
    main()
