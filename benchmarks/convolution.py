"""Convolutional cells: one gradient of a mean loss, this library beside its peers.

The cell is y = tanh(conv3x3(y, lateral) + conv3x3(x, kernel) + bias), channels last, written in
`benchmarks/peers/convolutional.py` as a user writes it; the loss is the mean squared difference
from a target, and the gradient is that of all parameters. Lateral weights are such that plain
iteration from zero takes about 15 and 150 steps to 1e-10 (it is counted, and printed).

    python -m benchmarks.convolution                      # all
    python -m benchmarks.convolution --quick              # 8 channels, float32: 2 minutes
    python -m benchmarks.convolution --only "irnn_jax" "jaxopt Anderson" --dtype float32

Each contender gets the loosest tolerance, by powers of ten, with which its gradient is good enough
(relative error, in the maximum norm over all leaves, of 1e-6 in float64 and 1e-3 in float32); what
has a tolerance of its own keeps that. The error is against plain iteration and its adjoint in
float64, to rounding, with convolutions written as sums of matrix products. Contenders take turns.
One whose gradient is never good enough is marked WRONG, and no ratio is to it, nor to one of which
a call takes longer than 20 s. What takes seconds is timed once, when its tolerance is found. A peer
that is far behind, or wrong, on the smaller images is left out on the larger.
"""

import argparse
import dataclasses
import functools
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.convolution_cases import SETTINGS, Setting, error_of, reference, residual
from benchmarks.peers.convolutional import CONTENDERS, Convolutional
from benchmarks.regimes import ACCEPTED
from benchmarks.timing import machine, paired

LIMIT = 20.0  # seconds of a call, beyond which there is no other
BUDGET = 4.0  # seconds of rounds, for all contenders of a line together
MAX_ROUNDS = 9
LONG = 0.7  # seconds of a call, which is timed in rounds apart
ONCE = 3.0  # seconds of a call that is timed once, when its tolerance has been found
HOPELESS = 3.0  # times the best peer on smaller images, beyond which a peer is left out on larger
SLOW = "too slow"
LADDER = {
    "float64": (1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9),
    "float32": (1e-2, 1e-3, 1e-4, 1e-5, 1e-6),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One contender in a setting; `seconds` is the fastest of the rounds."""

    contender: str
    peer: bool
    setting: str = ""
    dtype: str = ""
    steps: int = 0
    status: str = ""
    tolerance: float | None = None
    seconds: float | None = None
    median: float | None = None
    ratio: float | None = None
    error: float | None = None
    converged: int | None = None

    @property
    def counts(self) -> bool:
        return self.seconds is not None and not self.status


@functools.cache
def program(contender: Convolutional):
    """(params, x, y0, target, tolerance) -> gradient, (y, flags); once for each shape."""

    def loss(params, x, y0, target, tolerance):
        y, flags = contender.solve(params, x, y0, tolerance)
        return jnp.mean((y - target) ** 2), (y, flags)

    return jax.jit(jax.grad(loss, has_aux=True))


def prepare(contender: Convolutional, case):
    """tolerance -> gradient, (y, flags); compiled."""
    if contender.library == "torchdeq":
        return contender.solve(*case).gradient
    arrays = jax.tree.map(jnp.asarray, case)
    dtype = arrays[1].dtype
    compiled = program(contender).lower(*arrays, jnp.zeros((), dtype)).compile()
    return lambda tolerance: compiled(*arrays, jnp.asarray(tolerance, dtype))


def seconds_of(call, *args) -> tuple[float, Any]:
    begin = time.perf_counter()
    result = jax.block_until_ready(call(*args))
    return time.perf_counter() - begin, result


def projected(contender: Convolutional, case) -> float:
    """Seconds of a call, from one of two samples."""
    params, *samples = case
    call = prepare(contender, (params, *(array[:2] for array in samples)))
    call(0.0)
    return seconds_of(call, 0.0)[0] * len(samples[0]) / 2


def converged(case, y, flags, tolerance) -> int:
    """Samples: by the contender's own flags, or by a residual within ten times the tolerance."""
    if flags is not None:
        return int(np.sum(flags))
    return int(np.sum(residual(case[0], case[1], jnp.asarray(y)) <= 10 * tolerance))


def settle(contender: Convolutional, case, exact, before: Row | None) -> tuple[Row, Any]:
    """The loosest tolerance with which it is right, and the call to time with it.

    `before` is its row for smaller images, whose tolerance is the first to be tried.
    """
    dtype = str(case[1].dtype)
    row = Row(contender=contender.name, peer=contender.peer, dtype=dtype)
    reason = contender.missing()
    if reason:
        return dataclasses.replace(row, status=f"missing: {reason}"), None
    if before and (before.ratio or 0) > HOPELESS and before.peer:
        status = f"left out: {before.ratio:.0f} × the best on smaller images"
        return dataclasses.replace(row, status=status), None
    if before and before.peer and before.status:
        status = f"left out: {before.status} on smaller images"
        return dataclasses.replace(row, status=status), None
    if before and before.status.startswith(SLOW):
        return dataclasses.replace(row, status=f"{SLOW}, as on smaller images"), None
    if contender.growing:
        guess = projected(contender, case)
        if guess > LIMIT:
            status = f"{SLOW}: about {guess:.0f} s, projected from two samples"
            return dataclasses.replace(row, status=status), None
    call = prepare(contender, case)
    largest = (before and before.tolerance) or np.inf
    for tolerance in (t for t in LADDER[dtype] if t <= largest):
        try:
            seconds, (gradient, (y, flags)) = seconds_of(call, tolerance)
        except jax.errors.JaxRuntimeError:
            row = dataclasses.replace(row, status="raises at run time", tolerance=tolerance)
            continue
        error = error_of(gradient, exact)
        row = dataclasses.replace(
            row,
            status="",
            tolerance=None if contender.own_tolerance else tolerance,
            seconds=seconds,
            error=error,
            converged=converged(case, y, flags, tolerance),
        )
        if seconds > LIMIT:
            return dataclasses.replace(row, status=f"one call took {seconds:.0f} s"), None
        if error <= ACCEPTED[dtype]:
            return row, functools.partial(call, tolerance) if seconds < ONCE else None
        if contender.own_tolerance:
            break
    return dataclasses.replace(row, status=row.status or "WRONG"), None


def measure(setting: Setting, dtype: str, contenders, known: dict[Any, Row]) -> list[Row]:
    """A row for each contender; `known` has those for smaller images."""
    case = setting.draw()
    with jax.enable_x64(True):
        exact, steps, done = jax.device_get(reference(*case))
    assert done, "plain iteration does not converge: no reference"
    case = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), case)
    rows, calls = {}, {}
    # Float32 as its users have it: with 64 bits enabled, some peers fail.
    with jax.enable_x64(dtype == "float64"):
        for contender in contenders:
            before = known.get((contender.name, dtype, setting.gain))
            try:
                row, call = settle(contender, case, exact, before)
            except Exception as error:  # whatever a peer raises is its result
                status = f"failed: {type(error).__name__}: {str(error).splitlines()[0][:60]}"
                row, call = Row(contender=contender.name, peer=contender.peer, status=status), None
            rows[contender.name] = dataclasses.replace(
                row, setting=setting.label, dtype=dtype, steps=int(steps)
            )
            if call is not None:
                calls[contender.name] = call
        for name, (fastest, median) in timed(calls, rows).items():
            rows[name] = dataclasses.replace(rows[name], seconds=fastest, median=median)
    best = min((row.seconds for row in rows.values() if row.peer and row.counts), default=None)
    for name, row in rows.items():
        if best and row.counts:
            row = dataclasses.replace(row, ratio=row.seconds / best)
        rows[name] = known[name, dtype, setting.gain] = row
    return list(rows.values())


def timed(calls, rows) -> dict[str, tuple[float, float]]:
    """Fastest and median seconds, in rounds of those that take about as long.

    Torch's apart: its threads spin after their work, and whatever came next would pay for it.
    """
    groups = {}
    for name, call in calls.items():
        key = (name.startswith("torchdeq"), rows[name].seconds > LONG)
        groups.setdefault(key, {})[name] = call
    result = {}
    for group in groups.values():
        total = sum(rows[name].seconds for name in group)
        timings = paired(group, max(1, min(MAX_ROUNDS, int(BUDGET / total))))
        result |= {name: (t.fastest, t.median) for name, t in timings.items()}
    return result


def table(rows: list[Row]) -> Table:
    out = Table(title=f"{rows[0].setting}, {rows[0].dtype}: {rows[0].steps} plain steps")
    out.add_column("contender", no_wrap=True)
    for column in ("ms", "median", "× best peer", "error", "converged", "tolerance", ""):
        out.add_column(column, justify="right" if column else "left")
    for row in rows:
        values = (
            (row.seconds, lambda value: f"{value * 1e3:.1f}"),
            (row.median, lambda value: f"{value * 1e3:.1f}"),
            (row.ratio, lambda value: f"{value:.2f}"),
            (row.error, lambda value: f"{value:.0e}"),
            (row.converged, str),
            (row.tolerance, lambda value: f"{value:.0e}"),
        )
        shown = ("" if value is None else form(value) for value, form in values)
        out.add_row(row.contender, *shown, row.status)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="8 channels, float32")
    parser.add_argument("--channels", nargs="+", type=int, default=[8, 16], choices=[8, 16])
    parser.add_argument("--only", nargs="+", help="only contenders with one of these in the name")
    parser.add_argument("--dtype", nargs="+", default=list(LADDER), choices=LADDER)
    parser.add_argument("--json", type=Path, help="where to save the rows")
    args = parser.parse_args()
    contenders = [c for c in CONTENDERS if not args.only or any(w in c.name for w in args.only)]
    settings = [s for s in SETTINGS if s.channels in ([8] if args.quick else args.channels)]
    console, rows, known = Console(width=150), [], {}
    for setting in settings:
        for dtype in ["float32"] if args.quick else args.dtype:
            begin = time.perf_counter()
            measured = measure(setting, dtype, contenders, known)
            rows += measured
            console.print(table(measured))
            console.print(f"{time.perf_counter() - begin:.0f} s")
    console.print(machine())
    if args.json:
        args.json.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
