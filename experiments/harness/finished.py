"""Reading runs back: what a finished run's folder says about each of its networks."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from omegaconf import DictConfig, OmegaConf

from experiments.harness.vary import by_point, grid

# What a row of metrics.jsonl calls the number that a network is judged by, one a run.
METRICS = ("test_error", "error")


class Result(NamedTuple):
    """One network of one run, at one point of its grid if numbers were varied.

    Attributes:
        folder: of the run.
        network: as metrics.jsonl calls it.
        settings: the run's configuration by dotted key; of its networks, this one's alone.
        metric: what `values` are, for instance "test_error".
        values: the last ones, one a run.
        converged: mean fraction of the samples that reached an equilibrium.
    """

    folder: Path
    network: str
    settings: dict[str, Any]
    metric: str
    values: np.ndarray
    converged: float


def find(folders: Iterable[Path]) -> tuple[list[Path], dict[Path, str]]:
    """The finished runs in and below the folders, and the others with their status."""
    done: list[Path] = []
    others: dict[Path, str] = {}
    for folder in folders:
        for path in sorted(folder.rglob("metadata.json")):
            status = json.loads(path.read_text())["status"]
            if path.parent in done or path.parent in others:
                continue  # named twice on the command line
            if status == "DONE":
                done.append(path.parent)
            else:
                others[path.parent] = status
    return done, others


def rows(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of metrics.jsonl; null becomes NaN, wherever it stands."""
    with (folder / "metrics.jsonl").open() as file:
        for line in file:
            yield {key: _numbers(value) for key, value in json.loads(line).items()}


def results(folder: Path, metric: str | None = None) -> list[Result]:
    """The run's networks by their last numbers; none if it has no metric that is one a run."""
    loaded = OmegaConf.load(folder / "config.yaml")
    assert isinstance(loaded, DictConfig)
    last: dict[str, tuple[str, dict[str, Any]]] = {}
    for row in rows(folder):
        for name in METRICS if metric is None else (metric,):
            if "network" in row and isinstance(row.get(name), np.ndarray):
                last[row["network"]] = name, row
                break
    return [
        result
        for network, (name, row) in last.items()
        for result in _points(folder, loaded, network, name, row)
    ]


def _points(
    folder: Path, config: DictConfig, network: str, metric: str, row: Mapping[str, Any]
) -> Iterator[Result]:
    points = grid(config) if config.get("vary") else [{}]
    settings = _settings(config, network)
    prefix = metric.removesuffix("error")
    converged = row.get(f"{prefix}converged", np.nan)
    split = by_point(row[metric], len(points))
    shares = by_point(np.broadcast_to(converged, row[metric].shape), len(points))
    for point, values, share in zip(points, split, shares, strict=True):
        yield Result(
            folder=folder,
            network=network,
            settings=settings | point,
            metric=metric,
            values=values,
            converged=float(np.mean(share)),
        )


def _settings(config: DictConfig, network: str) -> dict[str, Any]:
    flat = dict(_flat(OmegaConf.to_container(config, resolve=True)))
    name = max((n for n in config.networks if network.startswith(n)), key=len, default=network)
    own = f"networks.{name}."
    kept = {k.removeprefix(own): v for k, v in flat.items() if k.startswith(own)}
    return kept | {k: v for k, v in flat.items() if not k.startswith(("networks.", "vary"))}


def _flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from _flat(value, f"{prefix}{key}.")
    else:
        yield prefix.removesuffix("."), tree


def _numbers(value: Any) -> Any:
    if isinstance(value, list):
        return np.array(value, float)  # None is NaN to numpy
    return np.nan if value is None else value
