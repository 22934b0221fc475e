"""Reading runs back: what a finished run's folder says about each of its networks."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from experiments.report.settings import by_point, flat, points

# What a row of metrics.jsonl calls the number that a network is judged by, one a run.
METRICS = ("test_error", "error")


class Damaged(ValueError):
    """A run's file that cannot be read, or is not what was written."""


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


def metadata(folder: Path) -> dict[str, Any]:
    """What a run says of itself.

    Raises:
        Damaged: it cannot be read; or the run is done, and its numbers are not those it wrote.
    """
    try:
        found = json.loads((folder / "metadata.json").read_text())
        expected = found["status"] == "DONE" and found.get("metrics_sha256")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{folder}/metadata.json is damaged") from error
    # Runs of older versions have no digest.
    if expected and expected != sha256(folder / "metrics.jsonl"):
        raise Damaged(f"{folder}/metrics.jsonl is damaged")
    return found


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find(folders: Iterable[Path]) -> tuple[list[Path], dict[Path, str]]:
    """The finished runs in and below the folders, and the others with their status."""
    done: list[Path] = []
    others: dict[Path, str] = {}
    for folder in folders:
        for path in sorted(folder.rglob("metadata.json")):
            if path.parent in done or path.parent in others:
                continue  # named twice on the command line
            try:
                status = metadata(path.parent)["status"]
            except Damaged as error:
                status = f"damaged: {error}"
            if status == "DONE":
                done.append(path.parent)
            else:
                others[path.parent] = status
    return done, others


def rows(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of metrics.jsonl; null becomes NaN, wherever it stands.

    Raises:
        Damaged: one cannot be read.
    """
    with (folder / "metrics.jsonl").open() as file:
        try:
            for line in file:
                yield {key: _numbers(value) for key, value in json.loads(line).items()}
        except (ValueError, AttributeError) as error:
            raise Damaged(f"{folder}/metrics.jsonl is damaged") from error


def results(folder: Path, metric: str | None = None) -> list[Result]:
    """The run's networks by their last numbers; none if it has no metric that is one a run.

    Raises:
        Damaged: a file of the run cannot be read.
    """
    try:
        loaded = OmegaConf.load(folder / "config.yaml")
        assert isinstance(loaded, DictConfig)
    except (YAMLError, OmegaConfBaseException, ValueError, AssertionError) as error:
        raise Damaged(f"{folder}/config.yaml is damaged") from error
    last: dict[str, tuple[str, dict[str, Any]]] = {}
    for row in rows(folder):
        for name in METRICS if metric is None else (metric,):
            if "network" in row and isinstance(row.get(name), np.ndarray):
                last[row["network"]] = name, row
                break
    return [
        result
        for network, (name, row) in last.items()
        for result in _at_points(folder, loaded, network, name, row)
    ]


def _at_points(
    folder: Path, config: DictConfig, network: str, metric: str, row: Mapping[str, Any]
) -> Iterator[Result]:
    places = points(config.get("vary"))
    settings = _settings(config, network)
    prefix = metric.removesuffix("error")
    converged = row.get(f"{prefix}converged", np.nan)
    split = by_point(row[metric], len(places))
    shares = by_point(np.broadcast_to(converged, row[metric].shape), len(places))
    for point, values, share in zip(places, split, shares, strict=True):
        yield Result(
            folder=folder,
            network=network,
            settings=settings | point,
            metric=metric,
            values=values,
            converged=float(np.mean(share)),
        )


def _settings(config: DictConfig, network: str) -> dict[str, Any]:
    every = dict(flat(OmegaConf.to_container(config, resolve=True)))
    name = max((n for n in config.networks if network.startswith(n)), key=len, default=network)
    own = f"networks.{name}."
    kept = {k.removeprefix(own): v for k, v in every.items() if k.startswith(own)}
    return kept | {k: v for k, v in every.items() if not k.startswith(("networks.", "vary"))}


def _numbers(value: Any) -> Any:
    if isinstance(value, list):
        return np.array(value, float)  # None is NaN to numpy
    return np.nan if value is None else value
