"""Figure 7: the final test error of figure 6's networks over their width and their parameters."""

import dataclasses

from omegaconf import DictConfig, OmegaConf

from experiments import pendulum, runner
from experiments.report.capacity import present
from experiments.report.content import Section


@dataclasses.dataclass(frozen=True)
class Config(pendulum.Config):
    hidden_sizes: runner.Counts


def run(config: DictConfig, recording: runner.Recording) -> Section:
    """Train and test every network at every width; each of them is a unit of its own."""
    if config.vary:
        raise runner.BadConfig(
            "capacity varies hidden_sizes alone; vary is for experiments.pendulum"
        )
    if not config.hidden_sizes:
        raise runner.BadConfig(f"hidden_sizes must be positive numbers, got {config.hidden_sizes}")
    curves: dict[str, dict[int, runner.Curves]] = {name: {} for name in config.networks}
    for width in sorted(set(config.hidden_sizes)):
        sized = at_width(config, width)
        pendulum.require_test_samples(sized)
        for name, network in config.networks.items():
            train = pendulum.make_train(sized, network)
            curves[name][width] = runner.train_runs(train, sized, f"{name}-{width}", recording)
    return present(curves, config=config, folder=recording.folder)


def at_width(config: DictConfig, width: int) -> DictConfig:
    """The pendulum experiment that trains networks of this hidden size."""
    sized = config.copy()
    OmegaConf.update(sized, "model.hidden", [width])
    return sized


main = runner.command("capacity", capacity=runner.Experiment(run, Config))

if __name__ == "__main__":
    main()
