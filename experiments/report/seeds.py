"""What became of each seed of an XOR training."""

from typing import Any, NamedTuple

import numpy as np
from omegaconf import DictConfig


class Seeds(NamedTuple):
    """What became of one network's seeds; leaves (looks, seeds) unless said otherwise.

    Attributes:
        network: its name in the configuration.
        steps: at which it was looked at, (looks,).
        error: mean squared error of Y1.
        trained_error: the same of all outputs that are in the loss.
        solved: error below the threshold, and all patterns converged.
        trained_solved: the same of trained_error.
        output: of the last look, (seeds, patterns, outputs).
    """

    network: str
    steps: np.ndarray
    error: np.ndarray
    trained_error: np.ndarray
    solved: np.ndarray
    trained_solved: np.ndarray
    output: np.ndarray

    def at(self, step: int) -> int:
        """The first look at or after a step, or the last."""
        return min(int(np.searchsorted(self.steps, step)), len(self.steps) - 1)


def seeds_of(network: str, answers: Any, stride: int, config: DictConfig) -> Seeds:
    error = answers.error[..., 0]
    trained_error = answers.error[..., list(config.networks[network].trained)].mean(axis=-1)
    complete = answers.converged == 1
    return Seeds(
        network=network,
        steps=stride * np.arange(len(error)),
        error=error,
        trained_error=trained_error,
        solved=complete & (error < config.solved_below),
        trained_solved=complete & (trained_error < config.solved_below),
        output=answers.output[-1],
    )


def representative(seeds: Seeds) -> tuple[int, str]:
    """The seed of the truth table, and how it was chosen, in words."""
    error = np.where(np.isfinite(seeds.trained_error[-1]), seeds.trained_error[-1], np.inf)
    solved = np.flatnonzero(seeds.trained_solved[-1])
    chosen_of = solved if solved.size else np.arange(error.size)
    ordered = chosen_of[np.argsort(error[chosen_of])]
    seed = int(ordered[(len(ordered) - 1) // 2])
    among = f"the {solved.size} solved seeds" if solved.size else "all seeds: none is solved"
    return seed, f"Seed {seed} of {error.size}: the median error among {among}."
