"""Figure 6: omega0 and delta of a damped oscillator, read off its trajectory by three networks.

They differ in `recurrent` and `gradient` alone; each run starts all three from the same weights
and feeds them the same batches.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray
from omegaconf import DictConfig

import irnn_jax as irnn
from experiments import runner
from experiments.report import sweep
from experiments.report.content import Section
from experiments.report.pendulum import present
from experiments.report.sweep import Outcome
from irnn_jax.data import OscillatorData

Samples = tuple[Array, Array]  # (samples, times), (samples, 2)


@dataclasses.dataclass(frozen=True)
class Config(runner.Epochs):
    num_test: runner.Count
    final_num_test: runner.MaybeCount
    output_range: runner.Range


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
        net: runner.NetworkLike, test: Samples | None = None, num_test: int = config.num_test
    ) -> Test:
        inputs, targets = samples(num_test) if test is None else test
        net = jax.tree.map(lambda leaf: leaf.astype(inputs.dtype), net)
        found = runner.evaluate_in_chunks(
            net,
            (inputs, targets),
            loss,
            solver=solver,
            activation=runner.activation_of(config),
            num_test=num_test,
            chunk=config.test_chunk,
        )
        return Test(found.means, found.converged, found.solver_steps)

    return samples, evaluate


def make_train(config: DictConfig, network: DictConfig) -> runner.Train:
    """Build one network's training, pure: `jit` it, `vmap` it over runs."""
    data = runner.make(config.data)
    low, high = config.output_range
    sizes = (data.num_times, *config.model.hidden, 2)

    def sample(key: PRNGKeyArray) -> tuple[Array, Array]:
        # int32 whether x64 is on or not, so that both train on the same samples.
        shape = (config.batch_size,)
        return data.train(jax.random.randint(key, shape, 0, data.num_train, dtype=jnp.int32))

    def loss(output: Array, target: Array) -> Array:
        # In units of the parameters' ranges, whatever outputs stand for their ends.
        return irnn.squared_error((output - low) / (high - low), target)

    trainer = runner.vary.trainer(config, network, loss, sizes)
    samples, evaluate = make_test(config, data, loss, trainer.solver)
    final = None
    if config.final_num_test is not None:
        final = functools.partial(evaluate, num_test=config.final_num_test)
    return runner.Train(
        init=trainer.init,
        step=trainer.step,
        sample=sample,
        evaluate=evaluate,
        final=final,
        samples=samples,
    )


def run(config: DictConfig, recording: runner.Recording) -> Section:
    """Train and test every network of the configuration."""
    require_test_samples(config)
    curves = {
        name: runner.train_runs(make_train(config, network), config, name, recording)
        for name, network in config.networks.items()
    }
    if config.vary:
        return sweep.present(
            {n: Outcome(c.test.error[-1], c.test.converged[-1]) for n, c in curves.items()},
            question=f"The damped oscillator of figure 6, {config.num_epochs} epochs: what do "
            f"{' and '.join(map(str, config.vary))} change in the test error?",
            config=config,
            folder=recording.folder,
        )
    return present(curves, config=config, folder=recording.folder)


def require_test_samples(config: DictConfig) -> None:
    """Raise a ValueError if there are fewer test samples than asked for."""
    available = runner.make(config.data).num_test
    for key in ("num_test", "final_num_test"):
        if (config[key] or 0) > available:
            raise runner.BadConfig(
                f"{key}={config[key]}, but the data hold {available} test samples"
            )


EXPERIMENT = runner.Experiment(run, Config)
main = runner.command("pendulum", pendulum=EXPERIMENT)

if __name__ == "__main__":
    main()
