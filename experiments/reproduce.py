"""The paper's experiments, one after the other, in one folder with one report."""

import sys
from pathlib import Path

if not __package__:  # run as a file: Python then puts experiments/ on the path, not its parent
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from omegaconf import DictConfig

from experiments import pendulum, scalar_neuron, xor
from experiments.harness.entry import entry
from experiments.harness.launch import Experiments

RUNS = {"scalar_neuron": scalar_neuron.run, "xor": xor.run, "pendulum": pendulum.run}


@entry("reproduce")
def main(config: DictConfig) -> Experiments:
    return {name: (run, config[name]) for name, run in RUNS.items()}


if __name__ == "__main__":
    main()
