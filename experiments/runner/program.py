"""A training as pure functions of one run, and as compiled programs of all runs."""

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jaxtyping import PRNGKeyArray

import irnn_jax as irnn
from experiments.runner.devices import Layout, on_host
from experiments.runner.history import Averages, average


class Train(NamedTuple):
    """A training as pure functions of one run, for `jit` and `vmap`.

    Attributes:
        init: key and the numbers that `vary` gave the run -> the state before the first step.
        step: `irnn_jax.make_train_step`'s.
        sample: key -> a batch.
        evaluate: network, and test samples if there are any -> any pytree of arrays.
        final: the same, after the last epoch; None for `evaluate`.
        samples: () -> the test samples of all runs, made once; None: `evaluate` has its own.
        numbers: the numbers that vary between runs, by name, (runs,).
        one_by_one: whether runs are trained and evaluated one after the other (`irnn_jax.fit`).
    """

    init: Callable[..., irnn.TrainState]
    step: Callable[[irnn.TrainState, Any], tuple[irnn.TrainState, irnn.Metrics]]
    sample: Callable[[PRNGKeyArray], Any]
    evaluate: Callable[..., Any]
    final: Callable[..., Any] | None = None
    samples: Callable[[], Any] | None = None
    numbers: Mapping[str, Any] | None = None
    one_by_one: bool = False

    def start(self, keys: PRNGKeyArray) -> irnn.TrainState:
        """All runs before the first step."""
        return jax.vmap(self.init)(keys, dict(self.numbers or {}))


class Program:
    """All runs side by side, compiled ahead, so that compilation is told apart from the run.

    Attributes:
        states: where the runs stand, leaves (runs, ...).
        seconds: that compiling took.
    """

    def __init__(
        self,
        train: Train,
        keys: PRNGKeyArray,
        layout: Layout,
        *,
        num_steps: int,
        states: irnn.TrainState | None = None,
    ):
        start = time.perf_counter()
        self._keys = layout.place_keys(keys)
        if states is None:
            self.states = jax.jit(layout.alone(train.start))(self._keys)
        else:
            self.states = layout.place(states)

        self._one_by_one = train.one_by_one
        fit = functools.partial(
            irnn.fit,
            step=train.step,
            sample=train.sample,
            num_epochs=1,
            num_steps=num_steps,
            one_by_one=train.one_by_one,
        )
        # Donated, as `irnn.fit` does: inside of another program it cannot.
        one_epoch = jax.jit(layout.alone(fit), donate_argnums=0)
        self._fit = one_epoch.lower(self.states, self._keys).compile()
        self._samples = () if train.samples is None else (layout.share(train.samples),)
        with layout.context():
            self._evaluate = self._compiled(train.evaluate, layout)
            self._final = self._compiled(train.final, layout) if train.final else self._evaluate
        self.seconds = time.perf_counter() - start

    def _compiled(self, evaluate: Callable[..., Any], layout: Layout) -> Any:
        over_runs = jax.vmap(evaluate, in_axes=(0, *(None for _ in self._samples)))
        if self._one_by_one:

            def over_runs(nets: Any, *samples: Any) -> Any:
                return jax.lax.map(lambda net: evaluate(net, *samples), nets)

        if layout.lays_samples:  # the devices of a run talk at each solver step
            compiler = jax.jit(over_runs, out_shardings=layout.over_runs)
        else:
            compiler = jax.jit(layout.alone(over_runs, num_shared=len(self._samples)))
        return compiler.lower(self.states.net, *self._samples).compile()

    def epoch(self) -> Averages:
        """Train for one epoch."""
        self.states, metrics = self._fit(self.states, self._keys)
        return average(jax.tree.map(lambda leaf: leaf[:, 0], on_host(metrics)))

    def evaluate(self, *, last: bool = False) -> Any:
        """The evaluation of all runs, on the host; the final one after the last epoch."""
        evaluate = self._final if last else self._evaluate
        return on_host(evaluate(self.states.net, *self._samples))

    def states_on_host(self) -> irnn.TrainState:
        return on_host(self.states)
