"""Time every contender in a cell and judge what it returned; nothing is dropped without a word."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import irnn_jax as irnn
from benchmarks import reference
from benchmarks.compiled import (
    Prepared,
    Programs,
    prepare,
    seconds_of,
    to_numpy,
    without_recurrence,
)
from benchmarks.peers.base import Contender, EagerContender, JaxContender
from benchmarks.regimes import ACCEPTED, TOLERANCES, Case, Cell, Task, draw
from benchmarks.timing import paired

CAP = 10.0  # seconds: a call, of which there are two, that is projected to take longer
PROBE_FROM = 5e8  # operations beyond which two samples are tried first
FEW = 200  # samples a run of a forward pass that is too slow on all
SLOW = 0.7  # seconds of a call that is made once, not in rounds
MAX_ROUNDS, MAX_UNITS = 15, 400


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One contender in one cell.

    Attributes:
        seconds: median, of a training step, a gradient or a forward pass, of the whole cell.
        error: of the gradient, relative, against the direct solve in float64.
        unconverged: fraction of samples with a residual above 100 times the tolerance.
        status: "" or why there is no time.
    """

    cell: str
    regime: str
    task: str
    dtype: str
    contender: str
    status: str = ""
    note: str = ""
    seconds: float | None = None
    compile_seconds: float | None = None
    memory: int | None = None
    error: float | None = None
    accepted: bool | None = None
    unconverged: float | None = None
    equilibria: int = 0  # in one call


@dataclasses.dataclass(kw_only=True)
class Session:
    """What is remembered from cell to cell: compiled programs, and seconds a cost for each n."""

    quick: bool = False
    budget: float = 6.0  # seconds of paired rounds in a cell
    pace: dict[tuple[str, str, int], float] = dataclasses.field(default_factory=dict)
    programs: Programs = dataclasses.field(default_factory=dict)


def takes_part(contender: Contender, cell: Cell) -> bool:
    """Whether the cell is the contender's task at all."""
    if cell.task is Task.FORWARD:
        return contender.forward
    own = isinstance(contender, JaxContender) and contender.own_step is not None
    return contender.has_gradient and (cell.task is Task.TRAINING or not own)


def measure(cell: Cell, dtype: str, contenders: Iterable[Contender], session: Session) -> list[Row]:
    """A row for each contender that takes part."""
    case, tolerance = draw(cell, dtype), TOLERANCES[dtype]
    start = functools.partial(
        Row, cell=cell.label, regime=cell.regime, task=cell.task.value, dtype=dtype
    )
    ready: dict[str, tuple[Prepared, float]] = {}
    reasons: dict[str, str] = {}
    entered = {c.name: c for c in contenders if takes_part(c, cell)}
    for name, contender in entered.items():
        try:
            outcome = _first_call(contender, cell, case, tolerance, dtype, session)
        except Exception as error:  # whatever a peer raises is its result
            outcome = f"failed: {type(error).__name__}: {str(error).splitlines()[0][:80]}"
        if isinstance(outcome, str):
            reasons[name] = outcome
        else:
            ready[name] = outcome
    seconds = _timed(entered, ready, cell, session)
    exact = _exact(cell, case)
    rows = []
    for name, contender in entered.items():
        row = start(contender=name)
        if name in reasons:
            rows.append(dataclasses.replace(row, status=reasons[name]))
            continue
        prepared, _ = ready[name]
        fields = _judged(contender, cell, case, tolerance, dtype, prepared, exact)
        rows.append(
            dataclasses.replace(
                row,
                seconds=seconds[name] * prepared.scale,
                compile_seconds=prepared.compile_seconds,
                memory=prepared.memory,
                note=prepared.note,
                equilibria=cell.runs * cell.batch,
                **fields,
            )
        )
    return rows


def _cost(contender: Contender, cell: Cell) -> float:
    return cell.runs * cell.batch * float(cell.n) ** (3 if contender.dense else 2)


def _first_call(contender, cell, case, tolerance, dtype, session) -> tuple[Prepared, float] | str:
    """The contender, ready and run once, and its seconds a unit; or why not."""
    reason = contender.missing()
    if reason:
        return f"missing: {reason}"
    if session.quick and contender.heavy:
        return "left out by --quick"
    # Never from a smaller net, where dispatch is all there is: it would seem far slower.
    key, cost = (contender.name, dtype, cell.n), _cost(contender, cell)
    partial = isinstance(contender, EagerContender) and contender.runs is not None
    # A GPU takes as long for two samples as for many.
    large = cost > PROBE_FROM and jax.default_backend() == "cpu"
    if not partial and contender.dense and large and key not in session.pace:
        few = Case(case.net, case.x[:, :, :2], case.target[:, :, :2])
        probe = prepare(contender, cell, few, tolerance, session.programs)
        probe.call(1)
        session.pace[key] = seconds_of(lambda: probe.call(1)) / (cost * 2 / cell.batch)
    projected = session.pace.get(key, 0.0) * cost
    if not partial and cost > PROBE_FROM / 10 and projected > CAP:
        return f"too slow: about {projected:.0f} s, projected from fewer samples"
    if cell.task is Task.FORWARD and cell.batch > 5 * FEW:
        few = Case(case.net, case.x[:, :, :FEW], case.target[:, :, :FEW])
        part = prepare(contender, cell, few, tolerance, session.programs)
        first, scale = seconds_of(lambda: part.call(1)), cell.batch / FEW
        if first * scale > CAP:
            part = part._replace(scale=part.scale * scale, note=f"on at most {FEW} samples a run")
            return part, first
    prepared = prepare(contender, cell, case, tolerance, session.programs)
    first = seconds_of(lambda: prepared.call(1))
    if first < SLOW:  # its very first call also touches memory for the first time
        first = seconds_of(lambda: prepared.call(1))
    if cell.task is Task.GRADIENT:
        session.pace[key] = first / cost
    return prepared, first


def _timed(
    entered: dict[str, Contender], ready: dict[str, tuple[Prepared, float]], cell: Cell, session
) -> dict[str, float]:
    """Median seconds a unit, in rounds; what is slow was timed once, and that is its time.

    JAX's contenders take turns among themselves, and then the eager ones: torch's threads spin for
    a while after their work, and whatever came next would pay for it.
    """
    seconds = {name: first for name, (_, first) in ready.items()}
    quick = {name for name, first in seconds.items() if first <= SLOW}
    share = session.budget / max(len(quick), 1) / 5
    for eager in (False, True):
        calls, units = {}, {}
        for name in (name for name in ready if name in quick):
            if isinstance(entered[name], EagerContender) is eager:
                units[name] = max(1, min(MAX_UNITS, int(share / max(seconds[name], 1e-9))))
                calls[name] = _repeated(ready[name][0].call, units[name], cell)
        if calls:
            round_seconds = sum(seconds[name] * units[name] for name in calls)
            part = session.budget * len(calls) / len(quick)
            rounds = max(3, min(MAX_ROUNDS, int(part / max(round_seconds, 1e-9))))
            timings = paired(calls, rounds)
            seconds |= {name: timings[name].median / units[name] for name in calls}
    return seconds


def _repeated(call: Callable[[int], Any], units: int, cell: Cell) -> Callable[[], Any]:
    """As many units as make a time that can be measured, caches warm after the first."""
    if cell.task is Task.TRAINING:
        return functools.partial(call, units)

    def calls() -> None:
        for _ in range(units):
            jax.block_until_ready(call(1))

    return calls


@jax.jit
@jax.vmap
def _at_rest(net, x):
    """Where the flow rests, for Newton's method in numpy to start from."""
    return jnp.concatenate(irnn.equilibrium(net, x).activities, axis=-1)


def _exact(cell: Cell, case: Case) -> Callable[[bool, int, int], Any]:
    """(recurrent, runs, samples) -> the exact gradient there, computed once."""
    if cell.task is Task.FORWARD:
        return lambda *_: None

    @functools.cache
    def exact(recurrent: bool, runs: int, samples: int):
        net = case.net if recurrent else without_recurrence(case.net)
        net = jax.tree.map(lambda leaf: leaf[:runs], net)
        x, target = case.x[0][:runs, :samples], case.target[0][:runs, :samples]
        net, x, target = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (net, x, target))
        start = np.zeros((*x.shape[:2], cell.n))
        if cell.n <= 100:
            start = np.asarray(_at_rest(jax.tree.map(jnp.asarray, net), jnp.asarray(x)))
        return reference.reference(net, x, target, start)

    return exact


def _judged(contender, cell, case, tolerance, dtype, prepared: Prepared, exact) -> dict[str, Any]:
    answer = to_numpy(prepared.answer())
    net = case.net if contender.recurrent else without_recurrence(case.net)
    fields: dict[str, Any] = {"unconverged": answer.unconverged}
    if answer.activities is not None:
        runs, samples = answer.activities.shape[:2]
        part = jax.tree.map(lambda leaf: np.asarray(leaf)[:runs], net)
        residual = reference.residual(
            part, np.asarray(case.x[0][:runs, :samples]), answer.activities
        )
        fields["unconverged"] = float(np.mean(residual > 100 * tolerance))
    if answer.unconverged is not None:
        fields["unconverged"] = float(answer.unconverged)
    if answer.gradient is not None:
        runs = len(answer.gradient.layers[0].bias)
        some = cell.batch if answer.activities is None else answer.activities.shape[1]
        right = exact(contender.recurrent, runs, some)
        fields["error"] = reference.gradient_error(answer.gradient, right)
        fields["accepted"] = bool(fields["error"] <= ACCEPTED[dtype])
    return fields
