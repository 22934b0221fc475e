"""What a run shows of itself while it runs, on stderr: live bars, or plain lines without a tty."""

import sys
import time
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from experiments.report.statistics import percent

SECONDS_BETWEEN_LINES = 5.0


class Display:
    """The progress of several tasks, one after the other, as a context manager."""

    def __init__(self, stream: TextIO | None = None):
        self._console = Console(file=stream or sys.stderr)
        self._bars = None
        if self._console.is_terminal:
            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=16),
                TextColumn("{task.fields[status]}", table_column=Column(no_wrap=True)),
                TimeRemainingColumn(compact=True, elapsed_when_finished=True),
                console=self._console,
            )

    def __enter__(self) -> "Display":
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._bars is not None:
            self._bars.stop()

    def task(self, name: str, *, total: int, unit: str, size: int, of: str) -> "Task":
        """Begin a task of `total` units, each of `size` `of`.

        Its progress is counted in `unit`, its rate in `of`.
        """
        return Task(self, name, total=total, unit=unit, size=size, of=of)

    def line(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


class Task:
    """One bar, or one series of lines."""

    def __init__(self, display: Display, name: str, *, total: int, unit: str, size: int, of: str):
        self._display, self._name = display, name
        self._total, self._unit, self._size, self._of = total, unit, size, of
        self._bars = display._bars
        self._done_before = 0
        if self._bars is not None:
            self._id = self._bars.add_task(name, total=None, status="")

    def compiling(self, where: str = "") -> None:
        """Say so; and on which devices, if it is worth a word."""
        self._show(f"compiling for {where}" if where else "compiling")

    def resume(self, done: int) -> None:
        """`done` units need not be done again."""
        self._show(f"{self._place(done)} from a checkpoint", total=self._total, completed=done)

    def start(self, done: int = 0, *, compiled: float | None = None) -> None:
        """Compiled, in so many seconds: from here on, after `done` units, the rate counts."""
        self._start = self._last_line = time.perf_counter()
        self._done_before = done
        if self._bars is not None:
            # Not only updated: its rate would count the time that compiling took.
            self._bars.reset(self._id, total=self._total, completed=done, status="")
        if compiled is not None:  # above the bars, which have no room for it
            self._display.line(f"{self._name}: compiled in {compiled:.1f} s")

    def _place(self, done: int) -> str:
        scale = self._size if self._unit == self._of else 1
        return f"{self._unit} {done * scale:,}/{self._total * scale:,}"

    def _show(self, status: str, **bar: Any) -> None:
        if self._bars is None:
            self._display.line(f"{self._name}: {status}")
        else:
            self._bars.update(self._id, status=status, **bar)

    def update(self, done: int, *, converged: float, **values: float) -> None:
        """`done` units are behind us; the values, by name, are the newest ones."""
        now = time.perf_counter()
        elapsed = max(now - self._start, 1e-9)
        numbers = "".join(f"{name} {value:.3g}  " for name, value in values.items())
        here = done - self._done_before
        status = (
            f"{self._place(done)}  {here * self._size / elapsed:,.0f} {self._of}/s  "
            f"{numbers}converged {percent(converged)}"
        )
        if self._bars is not None:
            self._show(status, completed=done)
        elif done == self._total or now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            self._show(f"{status}  {elapsed / here * (self._total - done):.0f} s left")
