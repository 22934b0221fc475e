"""A contender made ready for a cell: compiled, with a call to time and a call that is judged."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import irnn_jax as irnn
from benchmarks.peers.base import Contender, EagerContender, JaxContender
from benchmarks.regimes import Case, Cell, Task
from irnn_jax.networks.dense import Network

B1 = 0.9  # Adam's: after its first step the first moment is (1 - B1) times the gradient
EAGER_STEPS = 3


class Answer(NamedTuple):
    """What is judged: None where the task has none.

    Attributes:
        gradient: (runs, ...), for all the samples that the cell has.
        activities: (runs, batch, n).
        unconverged: the fraction that the contender itself left out, where it hides activities.
    """

    gradient: Network | None = None
    activities: Any = None
    unconverged: float | None = None


class Prepared(NamedTuple):
    """A contender in a cell.

    Attributes:
        call: units -> what to block on; units are training steps, and 1 elsewhere.
        answer: what is judged.
        compile_seconds, memory: None for eager contenders.
        scale: by what a time is multiplied, for contenders that are timed on a part.
        note: says so.
    """

    call: Callable[[int], Any]
    answer: Callable[[], Answer]
    compile_seconds: float | None = None
    memory: int | None = None
    scale: float = 1.0
    note: str = ""


class Program(NamedTuple):
    """A compiled function, the seconds it took and the temporary bytes it needs."""

    run: Callable[..., Any]
    seconds: float
    memory: int | None


Programs = dict[Any, Program]


def prepare(
    contender: Contender, cell: Cell, case: Case, tolerance: float, programs: Programs
) -> Prepared:
    """Compile, or set up; a program that is in `programs` is not compiled again."""
    if not contender.recurrent:
        case = case._replace(net=without_recurrence(case.net))
    if isinstance(contender, EagerContender):
        return _eager(contender, cell, case, tolerance)
    if cell.task is Task.TRAINING:
        return _training(contender, cell, case, tolerance, programs)
    if cell.task is Task.GRADIENT:
        return _gradient(contender, case, tolerance, programs)
    return _forward(contender, case, tolerance, programs)


def without_recurrence(net: Network) -> Network:
    """The feed-forward twin."""
    layers = tuple(layer._replace(lateral=None) for layer in net.layers)
    return Network(layers=layers)


def over_runs(function: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.vmap`, but for a single run, whose products then are plain ones of matrices."""

    def mapped(net: Network, *args: Any) -> Any:
        if net.layers[0].bias.shape[0] > 1:
            return jax.vmap(function)(net, *args)
        single = function(*jax.tree.map(lambda leaf: leaf[0], (net, *args)))
        return jax.tree.map(lambda leaf: leaf[None], single)

    return mapped


def gradient_of_runs(contender: JaxContender, tolerance: float) -> Callable[..., Any]:
    """(net, x, target) -> gradient and activities, all with a leading axis of runs."""

    def loss(net, x, target):
        y = contender.activities(net, x, tolerance)
        return jnp.mean((y[:, -target.shape[-1] :] - target) ** 2), y

    return over_runs(jax.grad(loss, has_aux=True))


def _compiled(programs: Programs, contender: JaxContender, task: Task, function, *args) -> Program:
    """The program for arguments of these shapes and dtypes, whatever weights they hold."""
    leaves, structure = jax.tree.flatten(args)
    key = (contender, task, structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves))
    if key not in programs:
        begin = time.perf_counter()
        compiled = jax.jit(function).lower(*args).compile()
        seconds = time.perf_counter() - begin
        analysis = compiled.memory_analysis()
        memory = None if analysis is None else analysis.temp_size_in_bytes
        programs[key] = Program(compiled, seconds, memory)
    return programs[key]


def _gradient(contender, case, tolerance, programs):
    args = (case.net, case.x[0], case.target[0])
    function = gradient_of_runs(contender, tolerance)
    compiled, seconds, memory = _compiled(programs, contender, Task.GRADIENT, function, *args)
    return Prepared(
        call=lambda units: compiled(*args),
        answer=lambda: Answer(*compiled(*args)),
        compile_seconds=seconds,
        memory=memory,
    )


def _forward(contender, case, tolerance, programs):
    x = case.x[0][:, : contender.samples]
    solve = over_runs(lambda net, x: contender.activities(net, x, tolerance))
    compiled, seconds, memory = _compiled(programs, contender, Task.FORWARD, solve, case.net, x)
    scale = case.x.shape[2] / x.shape[1]
    return Prepared(
        call=lambda units: compiled(case.net, x),
        answer=lambda: Answer(activities=compiled(case.net, x)),
        compile_seconds=seconds,
        memory=memory,
        scale=scale,
        note="" if scale == 1 else f"on {x.shape[1]:,} samples a run",
    )


def _training(contender, cell, case, tolerance, programs):
    # The number of steps is an argument, so that one program is timed on many steps and judged
    # on its first, whose gradient is read off Adam's first moment.
    make = _own_training if contender.own_step else _shared_training
    train = make(contender, cell, tolerance)
    rate = jnp.asarray(cell.learning_rate, case.x.dtype)
    args = (case.net, case.x, case.target, rate)
    compiled, seconds, memory = _compiled(
        programs, contender, Task.TRAINING, train, *args, jnp.asarray(1)
    )

    def answer():
        moment, activities, unconverged = compiled(*args, jnp.asarray(1))
        gradient = jax.tree.map(lambda leaf: leaf / (1 - B1), moment)
        return Answer(gradient, activities, None if unconverged is None else float(unconverged))

    return Prepared(
        call=lambda units: compiled(*args, jnp.asarray(units)),
        answer=answer,
        compile_seconds=seconds,
        memory=memory,
    )


def _shared_training(contender, cell, tolerance):
    """The same loop for all: gradient, Adam, next batch."""
    gradient = gradient_of_runs(contender, tolerance)

    def train(net, x, target, rate, num_steps):
        optimizer = optax.adam(rate, b1=B1)

        def body(i, carry):
            net, opt_state, _ = carry
            batch = i % len(x)
            grads, y = gradient(net, x[batch], target[batch])
            # One failed sample must not end the training, nor the timing.
            grads = jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), g, 0), grads)
            updates, opt_state = optimizer.update(grads, opt_state)
            return optax.apply_updates(net, updates), opt_state, y

        y = jnp.zeros((*x.shape[1:3], cell.n), x.dtype)
        carry = (net, optimizer.init(net), y)
        _, opt_state, y = jax.lax.fori_loop(0, num_steps, body, carry)
        return opt_state[0].mu, y, None

    return train


def _own_training(contender, cell, tolerance):
    """The library's own step, with its guard and its metrics."""
    del cell, tolerance

    def train(net, x, target, rate, num_steps):
        optimizer = optax.adam(rate, b1=B1)
        step = contender.own_step(irnn.squared_error, optimizer)
        states = jax.vmap(lambda net: irnn.TrainState.create(net, optimizer))(net)

        def body(i, carry):
            states, _ = carry
            batch = i % len(x)
            states, metrics = jax.vmap(step)(states, (x[batch], target[batch]))
            return states, 1 - jnp.mean(metrics.converged)

        carry = (states, jnp.ones((), x.dtype))
        states, unconverged = jax.lax.fori_loop(0, num_steps, body, carry)
        return states.opt_state[0].mu, None, unconverged

    return train


def _eager(contender, cell, case, tolerance):
    forward = cell.task is Task.FORWARD
    runs = slice(contender.runs)
    samples = slice(contender.samples if forward or contender.runs else None)
    net = jax.tree.map(lambda leaf: leaf[runs], case.net)
    x, target = case.x[0][runs, samples], case.target[0][runs, samples]
    part = contender.prepare(net, x, target, tolerance)
    scale = case.x[0][..., 0].size / x[..., 0].size
    note = "" if scale == 1 else f"timed on {x.shape[0]} runs × {x.shape[1]:,}"
    if cell.task is Task.TRAINING:
        calls = part.train
        note = f"{note}; eager" if note else "eager"
    elif forward:
        calls = lambda units: part.equilibria()  # noqa: E731
    else:
        calls = lambda units: part.gradient()  # noqa: E731

    def answer():
        if forward:
            return Answer(activities=part.equilibria())
        return Answer(*contender.prepare(net, x, target, tolerance).gradient())

    return Prepared(call=calls, answer=answer, scale=scale, note=note)


def to_numpy(answer: Answer) -> Answer:
    """Off the device."""
    return jax.tree.map(np.asarray, answer)


def seconds_of(call: Callable[[], Any]) -> float:
    """One call, blocked upon."""
    begin = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - begin
