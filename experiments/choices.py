"""Figure 6 under other readings of what the paper leaves open: does the order of errors change?"""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments import pendulum
from experiments.report.choices import present
from experiments.report.content import Section
from experiments.runner.config import check
from experiments.runner.curves import Curves, train_runs
from experiments.runner.entry import command
from experiments.runner.errors import BadConfig
from experiments.runner.launch import Experiment
from experiments.runner.progress import Display
from experiments.runner.recording import Recording


def run(config: DictConfig, recording: Recording, display: Display) -> Section:
    """Train and test every network under every reading."""
    if config.vary:
        raise BadConfig("choices compares readings alone; vary is for experiments.pendulum")
    read = {name: reading(config, changes or {}) for name, changes in config.readings.items()}
    for name, changed in read.items():
        check(changed, pendulum.Config, name=f"readings.{name}")
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


main = command("choices", choices=Experiment(run, pendulum.Config))

if __name__ == "__main__":
    main()
