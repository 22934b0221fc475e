"""Figure 6: omega0 and delta of a damped oscillator, read off its trajectory by three networks.

They differ in `recurrent` and `gradient` alone; each run starts all three from the same weights
and feeds them the same batches.
"""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

if not __package__:  # run as a file: Python then puts experiments/ on the path, not its parent
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray
from omegaconf import DictConfig

import irnn_jax as irnn
from experiments.harness import training, vary
from experiments.harness.curves import Curves, train_runs
from experiments.harness.devices import lay_samples
from experiments.harness.entry import entry
from experiments.harness.errors import BadConfig
from experiments.harness.launch import Experiments
from experiments.harness.progress import Display
from experiments.harness.recording import Recording
from experiments.harness.training import Train
from experiments.harness.vary import Numbers
from experiments.show import sweep
from experiments.show.content import Section
from experiments.show.pendulum import present
from experiments.show.sweep import Outcome
from irnn_jax.data import OscillatorData
from irnn_jax.network import NetworkLike

Samples = tuple[Array, Array]  # (samples, times), (samples, 2)


class Test(NamedTuple):
    """One network on the test samples."""

    error: Any  # mean squared, over the samples that converged; NaN if none did
    converged: Any  # fraction of the samples
    solver_steps: Any  # per sample


def make_test(
    config: DictConfig, data: OscillatorData, loss: Callable[..., Array], solver: Any
) -> tuple[Callable[..., Samples], Callable[..., Test]]:
    """`samples()`, the test samples, and `evaluate(net, samples())`; alone it draws its own."""
    if isinstance(solver, irnn.PseudoTransient):  # the same equilibria, ten times faster
        solver = irnn.InChunks(solver=solver)

    def samples(num_test: int = max(config.num_test, config.final_num_test or 0)) -> Samples:
        def some(index: Array) -> Samples:
            x, target = data.test(index)
            dtype = config.test_dtype or x.dtype
            return x.astype(dtype), target.astype(dtype)

        return jax.lax.map(some, jnp.arange(num_test), batch_size=config.test_chunk)

    def evaluate(
        net: NetworkLike, test: Samples | None = None, num_test: int = config.num_test
    ) -> Test:
        inputs, targets = samples(num_test) if test is None else test
        size = min(config.test_chunk, num_test)
        net = jax.tree.map(lambda leaf: leaf.astype(inputs.dtype), net)

        def chunk(first: Array) -> tuple[Array, Array, Array]:
            start = jnp.minimum(first, num_test - size)
            wanted = start + jnp.arange(size) >= first  # the last chunk begins within another
            x, target = lay_samples(
                tuple(jax.lax.dynamic_slice_in_dim(leaf, start, size) for leaf in (inputs, targets))
            )
            result = irnn.equilibrium(net, x, solver=solver)
            used = wanted & result.converged
            errors = jax.vmap(loss)(result.activities[-1], target)
            steps = jnp.where(wanted, result.num_steps, 0)
            return jnp.sum(jnp.where(used, errors, 0)), jnp.sum(used), jnp.sum(steps)

        sums = jax.lax.map(chunk, jnp.arange(0, num_test, size))
        error, used, steps = (jnp.sum(leaf) for leaf in sums)
        return Test(
            error=error / used,  # NaN if none converged
            converged=used / num_test,
            solver_steps=steps / num_test,
        )

    return samples, evaluate


def make_train(config: DictConfig, network: DictConfig) -> Train:
    """Build one network's training, pure: `jit` it, `vmap` it over runs."""
    data = training.make(config.data)
    low, high = config.output_range
    sizes = (data.num_times, *config.model.hidden, 2)

    def init(key: PRNGKeyArray, numbers: Numbers | None = None) -> irnn.TrainState:
        return trainer.start(training.draw(config, network, key, sizes), numbers)

    def sample(key: PRNGKeyArray) -> tuple[Array, Array]:
        # int32 whether x64 is on or not, so that both train on the same samples.
        shape = (config.batch_size,)
        return data.train(jax.random.randint(key, shape, 0, data.num_train, dtype=jnp.int32))

    def loss(output: Array, target: Array) -> Array:
        # In units of the parameters' ranges, whatever outputs stand for their ends.
        return irnn.squared_error((output - low) / (high - low), target)

    trainer = vary.trainer(config, network, loss)
    samples, evaluate = make_test(config, data, loss, trainer.solver)
    final = None
    if config.final_num_test is not None:
        final = functools.partial(evaluate, num_test=config.final_num_test)
    return Train(
        init=init,
        step=trainer.step,
        sample=sample,
        evaluate=evaluate,
        final=final,
        samples=samples,
    )


def run(config: DictConfig, recording: Recording, display: Display) -> Section:
    """Train and test every network of the configuration."""
    require_test_samples(config)
    curves = {
        name: train_runs(make_train(config, network), config, name, recording, display)
        for name, network in config.networks.items()
    }
    if config.vary:
        return sweep.present(
            {name: outcome(c) for name, c in curves.items()},
            question=f"The damped oscillator of figure 6, {config.num_epochs} epochs: what do "
            f"{' and '.join(map(str, config.vary))} change in the test error?",
            config=config,
            folder=recording.folder,
        )
    return present(curves, config=config, folder=recording.folder)


def outcome(curves: Curves) -> Outcome:
    """What a sweep compares: the last test."""
    return Outcome(error=curves.test.error[-1], converged=curves.test.converged[-1])


def require_test_samples(config: DictConfig) -> None:
    """Raise a ValueError if there are fewer test samples than asked for."""
    available = training.make(config.data).num_test
    for key in ("num_test", "final_num_test"):
        if (config[key] or 0) > available:
            raise BadConfig(f"{key}={config[key]}, but the data hold {available} test samples")


@entry("pendulum")
def main(config: DictConfig) -> Experiments:
    return {"pendulum": (run, config)}


if __name__ == "__main__":
    main()
