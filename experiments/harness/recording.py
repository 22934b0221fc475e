"""The files of one run: config.yaml, metadata.json, metrics.jsonl, summary.csv."""

import csv
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import time
import traceback
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jax
from omegaconf import DictConfig, OmegaConf

PACKAGES = ("irnn_jax", "jax", "jaxlib", "diffrax", "optax", "equinox", "numpy", "matplotlib")


class Recording:
    """A folder that says, whenever one looks, how far its run is: RUNNING, DONE or FAILED.

    with Recording(folder, config, command=command) as recording:
        recording.row(epoch=1, loss=0.3)
    """

    def __init__(self, folder: Path, config: DictConfig, *, command: str):
        self.folder = folder
        self.config = config
        self.timings: dict[str, dict[str, float]] = {}
        self._metadata = {
            "status": "RUNNING",
            "command": command,
            "started": datetime.now().astimezone().isoformat(timespec="seconds"),
            "git": git_version(),
            "device": device(),
            "versions": versions(),
        }

    def __enter__(self) -> "Recording":
        self._start = time.perf_counter()
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "config.yaml").write_text(OmegaConf.to_yaml(self.config, resolve=True))
        self._write_metadata()
        self._metrics = (self.folder / "metrics.jsonl").open("w")
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._metrics.close()
        self._metadata["status"] = "DONE" if error is None else "FAILED"
        self._metadata["wall_seconds"] = round(time.perf_counter() - self._start, 2)
        self._metadata["timings"] = self.timings
        if error is not None:
            self._metadata["error"] = "".join(traceback.format_exception(error))
        self._write_metadata()

    @property
    def metadata(self) -> dict[str, Any]:
        return dict(self._metadata)

    def row(self, **values: Any) -> None:
        """Append one line to metrics.jsonl; it is on disk when this returns."""
        self._metrics.write(json.dumps(_plain(values), allow_nan=False) + "\n")
        self._metrics.flush()

    def summary(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write summary.csv, one line a row; all rows have the first one's columns."""
        with (self.folder / "summary.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(_plain(row) for row in rows)

    def timing(self, name: str, *, compiling: float, running: float) -> None:
        """What a part of the run cost, compilation apart."""
        self.timings[name] = {
            "compile_seconds": round(compiling, 3),
            "run_seconds": round(running, 3),
        }

    def _write_metadata(self) -> None:
        # Replaced as a whole: who reads it meanwhile never finds half a file.
        path = self.folder / "metadata.json"
        partial = path.with_suffix(".tmp")
        partial.write_text(json.dumps(self._metadata, indent=2) + "\n")
        os.replace(partial, path)


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


def versions() -> dict[str, str]:
    """Of Python and of everything a number may depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "from source"
    return found


def device() -> str:
    """What it ran on, for instance "cpu, 8 cores"."""
    first, *others = jax.devices()
    if first.platform == "cpu":
        return f"cpu, {os.cpu_count()} cores"
    return f"{first.device_kind} ({first.platform}), {1 + len(others)} devices"


def git_version() -> str | None:
    """The commit of the code, with "+changes" if files differ from it; None without git."""
    root = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        command = ("git", "-C", str(root), *arguments)
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
