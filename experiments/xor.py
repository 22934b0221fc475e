"""Figures 2-5: can one layer of two neurons compute XOR?

With the exact gradient Y1 alone is trained, and Y2 becomes what Y1 needs; with the semi-gradient
Y2 is trained on a sub-problem; the feed-forward twin has no way to do it.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from omegaconf import DictConfig

import irnn_jax as irnn
from experiments import runner
from experiments.report import sweep
from experiments.report.content import Section
from experiments.report.sweep import Outcome
from experiments.report.xor import present


@dataclasses.dataclass(frozen=True)
class Network(runner.Network):
    trained: runner.Outputs


@dataclasses.dataclass(frozen=True)
class Config(runner.Training):
    num_seeds: runner.Count
    num_steps: runner.Count
    report_every: runner.Count
    compare_at: runner.Count
    solved_below: runner.Positive
    networks: Mapping[str, Network]


class Answers(NamedTuple):
    """One network's answers to the patterns; leaves (looks, seeds, ...) for a whole training.

    Attributes:
        output: Y1 and Y2 of each pattern, (patterns, outputs).
        error: mean squared error of each output over the patterns that converged, (outputs,).
        converged: fraction of the patterns.
        solver_steps: of the solver, mean over the patterns.
    """

    output: Any
    error: Any
    converged: Any
    solver_steps: Any


def make_train(config: DictConfig, network: DictConfig) -> runner.Train:
    """Build one network's training, pure: `jit` it, `vmap` it over seeds."""
    x, target = runner.make(config.data)
    sizes = (x.shape[1], *config.model.hidden, target.shape[1])
    trained = np.array(network.trained)

    def loss(output: Array, target: Array) -> Array:
        return irnn.squared_error(output[trained], target[trained])

    def evaluate(net: runner.NetworkLike) -> Answers:
        result = irnn.equilibrium(net, x, solver=trainer.solver, activation=trainer.activation)
        output, used = irnn.read_out(net, result.activities), result.converged[:, None]
        squares = jnp.where(used, (output - target) ** 2, 0)
        return Answers(
            output=output,
            error=jnp.sum(squares, axis=0) / jnp.sum(used),  # NaN if none converged
            converged=jnp.mean(used),
            solver_steps=jnp.mean(result.num_steps),
        )

    trainer = runner.vary.trainer(config, network, loss, sizes)
    return runner.Train(
        init=trainer.init, step=trainer.step, sample=lambda _: (x, target), evaluate=evaluate
    )


def run(config: DictConfig, recording: runner.Recording) -> Section:
    """Train every network of the configuration from every seed."""
    _, target = runner.make(config.data)
    # A common divisor, so that one compiled program takes all the steps.
    stride = math.gcd(config.num_steps, config.report_every)
    answers = {name: train_seeds(config, name, stride, recording) for name in config.networks}
    if config.vary:
        return sweep.present(
            {name: outcome(a, config.networks[name]) for name, a in answers.items()},
            question=f"XOR with one layer, {config.num_steps:,} steps: what do "
            f"{' and '.join(map(str, config.vary))} change in the error of the trained outputs?",
            config=config,
            folder=recording.folder,
        )
    return present(answers, stride, np.asarray(target), config=config, folder=recording.folder)


def outcome(answers: Answers, network: DictConfig) -> Outcome:
    """What a sweep compares: the last error of the outputs in the loss."""
    last = Answers(*(leaf[-1] for leaf in answers))
    return Outcome(error=error_of(last, network), converged=last.converged)


def error_of(look: Answers, network: DictConfig) -> np.ndarray:
    """Each seed's mean squared error of the outputs in the loss."""
    return look.error[:, list(network.trained)].mean(axis=-1)


def train_seeds(config: DictConfig, name: str, stride: int, recording: runner.Recording) -> Answers:
    """One network, all seeds side by side; looked at every `stride` steps."""
    num_looks = config.num_steps // stride
    keys, numbers = runner.vary.lanes(config, config.num_seeds)
    task = recording.display.task(
        f"xor {name}", total=num_looks, unit="steps", size=stride, of="steps"
    )
    looks: list[Answers] = []
    for epoch in runner.training.run(
        make_train(config, config.networks[name])._replace(numbers=numbers),
        keys,
        name=name,
        num_epochs=num_looks,
        steps_per_epoch=stride,
        eval_every=1,
        recording=recording,
        checkpoint_every=config.checkpoint_every,
        task=task,
    ):
        look = epoch.evaluation
        runner.training.require_equilibria(f"xor {name}", look.converged)
        last = epoch.number == num_looks
        low, median, high = np.nanquantile(look.error, (0.25, 0.5, 0.75), axis=0)
        recording.row(
            network=name,
            step=epoch.number * stride,
            error_median=median,  # of each output, over seeds
            error_quartiles=[low, high],
            converged=np.mean(look.converged),
            solver_steps=np.mean(look.solver_steps),
            # Of the outputs in the loss, one a seed: what studies compare.
            **({"error": error_of(look, config.networks[name])} if last else {}),
        )
        looks.append(look)
    return runner.stack(looks)


EXPERIMENT = runner.Experiment(run, Config)
main = runner.command("xor", xor=EXPERIMENT)

if __name__ == "__main__":
    main()
