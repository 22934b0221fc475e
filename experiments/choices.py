"""Figure 6 under other readings of what the paper leaves open: does the order of errors change?"""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments import pendulum, runner
from experiments.report.choices import present
from experiments.report.content import Section


def run(config: DictConfig, recording: runner.Recording) -> Section:
    """Train and test every network under every reading."""
    if config.vary:
        raise runner.BadConfig("choices compares readings alone; vary is for experiments.pendulum")
    read = {name: reading(config, changes or {}) for name, changes in config.readings.items()}
    for name, changed in read.items():
        runner.check(changed, pendulum.Config, name=f"readings.{name}")
        pendulum.require_test_samples(changed)
    curves: dict[str, dict[str, runner.Curves]] = {}
    for name, changed in read.items():
        curves[str(name)] = {
            network: runner.train_runs(
                pendulum.make_train(changed, node),
                changed,
                f"{network}-{name}",
                recording,
            )
            for network, node in changed.networks.items()
        }
    return present(curves, config=config, folder=recording.folder)


def reading(config: DictConfig, changes: Mapping[str, Any]) -> DictConfig:
    """The pendulum experiment with some of its values, by dotted key, replaced as a whole."""
    changed = config.copy()
    for key, value in changes.items():
        if OmegaConf.select(config, str(key), default=changes) is changes:
            raise runner.BadConfig(
                f"readings: there is no {key} in the configuration (see --cfg job)"
            )
        # Not merged: another solver has other arguments.
        OmegaConf.update(changed, str(key), value, merge=False)
    return changed


main = runner.command("choices", choices=runner.Experiment(run, pendulum.Config))

if __name__ == "__main__":
    main()
