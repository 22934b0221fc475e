"""An epoch of training steps, and whole runs over many seeds at once."""

import functools
from collections.abc import Callable

import chex
import jax

from irnn_jax.training.step import Batch, Metrics, Step, TrainState


def run_epoch(
    state: TrainState,
    key: chex.PRNGKey,
    *,
    step: Step,
    sample: Callable[[chex.PRNGKey], Batch],
    num_steps: int,
) -> tuple[TrainState, Metrics]:
    """One epoch of one run: `num_steps` batches are drawn at once, then trained on in one scan.

    Args:
        state: where the run stands.
        key: the run's key, the same for all of its epochs: the epoch's own key is made of it and
            of `state.step`, so that a run continued from a state is the run uninterrupted.
        step: from `make_train_step`.
        sample: key -> batch.
        num_steps: steps in the epoch.

    Returns:
        The state after the epoch, and metrics with leaves (num_steps,).
    """
    keys = jax.random.split(jax.random.fold_in(key, state.step), num_steps)
    return jax.lax.scan(step, state, jax.vmap(sample)(keys))


@functools.partial(
    jax.jit,
    static_argnames=("step", "sample", "num_epochs", "num_steps", "one_by_one"),
    donate_argnames="states",
)
def fit(
    states: TrainState,
    keys: chex.PRNGKey,
    *,
    step: Step,
    sample: Callable[[chex.PRNGKey], Batch],
    num_epochs: int,
    num_steps: int,
    one_by_one: bool = False,
) -> tuple[TrainState, Metrics]:
    """Train many runs side by side, for `num_epochs` epochs each, in one compiled program.

    The buffers of `states` are donated: use the states that come back. To watch, evaluate or save
    a long training, call it for a few epochs at a time, with the same `step` and `sample`
    objects: the program is compiled once.

    Args:
        states: leaves (runs, ...), for instance `jax.vmap(make_state)(keys)`.
        keys: one key a run, (runs,).
        step: from `make_train_step`.
        sample: key -> batch.
        num_epochs: how many epochs.
        num_steps: steps in an epoch.
        one_by_one: the runs one after the other in the same program, in place of `jax.vmap`: on a
            CPU convolutions with kernels of each run's own are then several times as fast.

    Returns:
        The new states, and metrics with leaves (runs, num_epochs, num_steps).
    """
    epoch = functools.partial(run_epoch, step=step, sample=sample, num_steps=num_steps)

    def run(state: TrainState, key: chex.PRNGKey) -> tuple[TrainState, Metrics]:
        return jax.lax.scan(lambda s, _: epoch(s, key), state, length=num_epochs)

    if one_by_one:
        return jax.lax.map(lambda of_run: run(*of_run), (states, keys))
    return jax.vmap(run)(states, keys)
