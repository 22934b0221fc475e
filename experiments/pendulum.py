"""Figure 6: omega0 and delta of a damped oscillator, read off its trajectory by three networks.

They differ in `recurrent` and `gradient` alone; each run starts all three from the same weights
and feeds them the same batches.
"""

import sys
from pathlib import Path
from typing import Any, NamedTuple

if not __package__:  # run as a file: Python then puts experiments/ on the path, not its parent
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray
from omegaconf import DictConfig

import irnn_jax as irnn
from experiments.harness import training
from experiments.harness.devices import lay_samples
from experiments.harness.entry import entry
from experiments.harness.errors import BadConfig
from experiments.harness.launch import Experiments
from experiments.harness.progress import Display
from experiments.harness.recording import Recording
from experiments.harness.training import Averages, Train
from experiments.show.content import Section
from experiments.show.pendulum import present
from irnn_jax.network import NetworkLike


class Test(NamedTuple):
    """One network on the test samples."""

    error: Any  # mean squared, over the samples that converged; NaN if none did
    converged: Any  # fraction of the samples
    solver_steps: Any  # per sample


class Curves(NamedTuple):
    """One network's training."""

    training: Averages  # leaves (epochs, runs)
    epochs: np.ndarray  # after which the network was tested, (tests,)
    test: Test  # leaves (tests, runs)
    num_parameters: int  # of one network


def make_train(config: DictConfig, network: DictConfig) -> Train:
    """Build one network's training, pure: `jit` it, `vmap` it over runs."""
    solver, gradient, optimizer, guard = training.strategies(config, network)
    data = training.make(config.data)
    low, high = config.output_range
    sizes = (data.num_times, *config.model.hidden, 2)

    def init(key: PRNGKeyArray) -> irnn.TrainState:
        net = training.draw(config, network, key, sizes)
        return irnn.TrainState.create(net, optimizer)

    def sample(key: PRNGKeyArray) -> tuple[Array, Array]:
        # int32 whether x64 is on or not, so that both train on the same samples.
        shape = (config.batch_size,)
        return data.train(jax.random.randint(key, shape, 0, data.num_train, dtype=jnp.int32))

    def loss(output: Array, target: Array) -> Array:
        # In units of the parameters' ranges, whatever outputs stand for their ends.
        return irnn.squared_error((output - low) / (high - low), target)

    def evaluate(net: NetworkLike) -> Test:
        size = min(config.test_chunk, config.num_test)

        def chunk(first: Array) -> tuple[Array, Array, Array]:
            index = first + jnp.arange(size)
            wanted = index < config.num_test  # the last chunk may reach beyond
            x, target = lay_samples(data.test(jnp.minimum(index, config.num_test - 1)))
            result = irnn.equilibrium(net, x, solver=solver)
            used = wanted & result.converged
            errors = jax.vmap(loss)(result.activities[-1], target)
            steps = jnp.where(wanted, result.num_steps, 0)
            return jnp.sum(jnp.where(used, errors, 0)), jnp.sum(used), jnp.sum(steps)

        sums = jax.lax.map(chunk, jnp.arange(0, config.num_test, size))
        error, used, steps = (jnp.sum(leaf) for leaf in sums)
        return Test(
            error=error / used,  # NaN if none converged
            converged=used / config.num_test,
            solver_steps=steps / config.num_test,
        )

    step = irnn.make_train_step(
        loss, optimizer, solver=solver, gradient=gradient, guard=guard, penalty=config.penalty
    )
    return Train(init=init, step=step, sample=sample, evaluate=evaluate)


def run(config: DictConfig, recording: Recording, display: Display) -> Section:
    """Train and test every network of the configuration."""
    available = training.make(config.data).num_test
    if config.num_test > available:
        raise BadConfig(f"num_test={config.num_test}, but the data hold {available} test samples")
    curves = {name: train_runs(config, name, recording, display) for name in config.networks}
    return present(curves, config=config, folder=recording.folder)


def train_runs(config: DictConfig, name: str, recording: Recording, display: Display) -> Curves:
    """One network, all runs side by side."""
    keys = jax.random.split(jax.random.key(config.seed), config.num_runs)
    total, size = config.num_epochs, config.steps_per_epoch
    train = make_train(config, config.networks[name])
    trained, tested, epochs = [], [], []
    for number, averages, test in training.run(
        train,
        keys,
        name=name,
        num_epochs=total,
        steps_per_epoch=size,
        eval_every=config.eval_every,
        recording=recording,
        checkpoint_every=config.checkpoint_every,
        task=display.task(f"pendulum {name}", total=total, unit="epoch", size=size, of="steps"),
    ):
        row: dict[str, Any] = {"network": name, "epoch": number}
        for kind, values, kept in (("train", averages, trained), ("test", test, tested)):
            if values is not None:
                training.require_equilibria(f"pendulum {name}", values.converged)
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


@entry("pendulum")
def main(config: DictConfig) -> Experiments:
    return {"pendulum": (run, config)}


if __name__ == "__main__":
    main()
