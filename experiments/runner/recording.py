"""The files of one run: config.yaml, metadata.json, metrics.jsonl, summary.csv, checkpoints/.

A run that starts where one of the same configuration was interrupted goes through everything again:
epochs that a checkpoint holds are not trained a second time, and lines that are in metrics.jsonl
already are not written a second time.
"""

import fcntl
import hashlib
import json
import math
import re
import time
import traceback
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jax
from omegaconf import DictConfig, OmegaConf

from experiments.report.content import Claim
from experiments.report.csv_text import csv_text
from experiments.report.finished import sha256
from experiments.runner import metadata
from experiments.runner.checkpoints import Checkpoints
from experiments.runner.devices import Devices
from experiments.runner.errors import BAD, BadConfig
from experiments.runner.files import write_whole
from experiments.runner.progress import Display
from experiments.runner.resuming import refuse_another
from experiments.runner.tensorboard import Sink
from experiments.runner.versions import device, git_version, versions


class Recording:
    """A folder that says how far its run is: RUNNING, DONE, INTERRUPTED or FAILED.

    with Recording(folder, config, command=command) as recording:
        recording.row(epoch=1, loss=0.3)

    Args:
        folder: made if it is not there; with a run of the same configuration in it, continued.
        config: what the run is, machine and all that does not matter to its numbers left out.
        command: what to type to run it again.
        devices: to run on; all of them by default.
        display: shows the progress, and what else is worth saying.
    """

    def __init__(
        self,
        folder: Path,
        config: DictConfig,
        *,
        command: str,
        devices: Devices | None = None,
        display: Display | None = None,
    ):
        self.folder = folder
        self.config = config
        self.devices = tuple(jax.devices() if devices is None else devices)
        self.display = display or Display()
        self.sinks: list[Sink] = []
        self.timings: dict[str, dict[str, float]] = {}
        self._command = command
        self._yaml = OmegaConf.to_yaml(config, resolve=True)

    def __enter__(self) -> "Recording":
        self._start = time.perf_counter()
        refuse_another(self.folder, self.config)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._open_metrics()
        try:
            # Another process may have begun a run between the look and the lock.
            refuse_another(self.folder, self.config)
            self._metadata = self._continued(metadata.read(self.folder))
            write_whole(self.folder / "config.yaml", self._yaml)
            self._write_metadata()
        except BaseException:
            self._metrics.close()
            raise
        return self

    def _open_metrics(self) -> None:
        path = self.folder / "metrics.jsonl"
        self._metrics = path.open("ab")
        try:
            fcntl.flock(self._metrics, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a kill releases it
        except BlockingIOError:
            self._metrics.close()
            raise BadConfig(f"another process is writing to {self.folder}") from None
        self._earlier, self._position = path.read_bytes(), 0

    def _continued(self, earlier: dict[str, Any] | None) -> dict[str, Any]:
        """This run's metadata; of an earlier part of it remain its start and its cost."""
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        found = versions()
        self._seconds_before = 0.0
        known: dict[str, Any] = {"status": "RUNNING", "command": self._command, "started": now}
        if earlier is not None:
            self._seconds_before = earlier.get("wall_seconds", 0.0)
            known["started"] = earlier["started"]
            known["resumed"] = [*earlier.get("resumed", []), now]
            if earlier["versions"] != found:
                self.display.line(
                    f"{self.folder}: was begun with other versions: {earlier['versions']}"
                )
        return known | {
            "git": git_version(),
            "device": device(self.devices),
            "versions": found,
        }

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None:
            self._cut()
        self._metrics.close()
        if isinstance(error, BAD) and self._is_blank():
            self._remove()
            return
        self._metadata["timings"] = self.timings
        if error is None:
            self._metadata["status"] = "DONE"
            self._metadata["metrics_sha256"] = sha256(self.folder / "metrics.jsonl")
        elif isinstance(error, KeyboardInterrupt):
            self._metadata["status"] = "INTERRUPTED"
        else:
            self._metadata["status"] = "FAILED"
            self._metadata["error"] = "".join(traceback.format_exception(error))
        try:
            self._write_metadata()
        except OSError:
            if error is None:
                raise
            # The disk is full, say: the status stays RUNNING, and the error is the first one.

    def _is_blank(self) -> bool:
        return self._position == 0 and "resumed" not in self._metadata

    def _remove(self) -> None:
        """A configuration that cannot be run leaves nothing behind."""
        for name in ("config.yaml", "metadata.json", "metrics.jsonl"):
            (self.folder / name).unlink()

    @property
    def metadata(self) -> dict[str, Any]:
        return dict(self._metadata)

    def checkpoints(self, name: str) -> Checkpoints:
        """Those of one part of the run."""
        digest = hashlib.sha256(f"{name}\n{self._yaml}".encode()).hexdigest()
        safe = re.sub(r"[^\w.=+-]+", "_", name)
        return Checkpoints(
            self.folder / "checkpoints" / safe, identity=digest, say=self.display.line
        )

    def row(self, **values: Any) -> bool:
        """Append one line to metrics.jsonl, flushed; False if it was there already."""
        line = (json.dumps(_plain(values), allow_nan=False) + "\n").encode()
        is_new = not self._earlier.startswith(line, self._position)
        if is_new:
            self._cut()
            self._metrics.write(line)
            self._metrics.flush()
            for sink in self.sinks:
                sink(values)
        self._position += len(line)
        return is_new

    def _cut(self) -> None:
        """Drop what an interrupted run wrote from here on: half a line, say."""
        if len(self._earlier) > self._position:
            self._metrics.truncate(self._position)
            self._earlier = b""

    def summary(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write summary.csv, one line a row; a column that it lacks is empty."""
        write_whole(self.folder / "summary.csv", csv_text([_plain(row) for row in rows]))

    def claims(self, claims: Sequence[Claim]) -> None:
        """Write claims.csv: what the paper says, and what this run says to it."""
        rows = [claim._asdict() for claim in claims]
        write_whole(self.folder / "claims.csv", csv_text(rows, columns=Claim._fields))

    def timing(self, name: str, *, compiling: float, running: float) -> None:
        """What a part of the run cost, compilation apart; so far, if it is still under way."""
        self.timings[name] = {
            "compile_seconds": round(compiling, 3),
            "run_seconds": round(running, 3),
        }

    def _write_metadata(self) -> None:
        wall = self._seconds_before + time.perf_counter() - self._start
        self._metadata["wall_seconds"] = round(wall, 2)
        metadata.write(self.folder, self._metadata)


def _plain(value: Any) -> Any:
    """Numbers and containers that JSON has; what is not a finite number becomes null."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.9g}") if math.isfinite(value) else None
    return value
