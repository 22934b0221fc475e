"""Figure 7: the final test error of figure 6's networks over their width and their parameters."""

import sys
from pathlib import Path

if not __package__:  # run as a file: Python then puts experiments/ on the path, not its parent
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from omegaconf import DictConfig, OmegaConf

from experiments import pendulum
from experiments.harness.curves import Curves, train_runs
from experiments.harness.entry import entry
from experiments.harness.errors import BadConfig
from experiments.harness.launch import Experiments
from experiments.harness.progress import Display
from experiments.harness.recording import Recording
from experiments.show.capacity import present
from experiments.show.content import Section


def run(config: DictConfig, recording: Recording, display: Display) -> Section:
    """Train and test every network at every width; each of them is a unit of its own."""
    if config.vary:
        raise BadConfig("capacity varies hidden_sizes alone; vary is for experiments.pendulum")
    if not config.hidden_sizes or min(config.hidden_sizes) < 1:
        raise BadConfig(f"hidden_sizes must be positive numbers, got {config.hidden_sizes}")
    curves: dict[str, dict[int, Curves]] = {name: {} for name in config.networks}
    for width in sorted(set(config.hidden_sizes)):
        sized = at_width(config, width)
        pendulum.require_test_samples(sized)
        for name, network in config.networks.items():
            train = pendulum.make_train(sized, network)
            curves[name][width] = train_runs(train, sized, f"{name}-{width}", recording, display)
    return present(curves, config=config, folder=recording.folder)


def at_width(config: DictConfig, width: int) -> DictConfig:
    """The pendulum experiment that trains networks of this hidden size."""
    sized = config.copy()
    OmegaConf.update(sized, "model.hidden", [width])
    return sized


@entry("capacity")
def main(config: DictConfig) -> Experiments:
    return {"capacity": (run, config)}


if __name__ == "__main__":
    main()
