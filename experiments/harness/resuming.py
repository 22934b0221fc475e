"""What a folder says of the run in it, and which folder to go on in."""

import fcntl
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.harness.errors import BadConfig

# Where and how a run is computed, and not what: not part of its record, and free to change.
MACHINE = ("resume", "devices", "compilation_cache", "distributed", "tensorboard")


def what_is_run(config: DictConfig) -> DictConfig:
    """The configuration without the keys that only concern the machine."""
    return OmegaConf.masked_copy(config, [str(key) for key in config if key not in MACHINE])


def metadata_of(folder: Path) -> dict[str, Any] | None:
    """A run's metadata.json; None without a run."""
    try:
        return json.loads((folder / "metadata.json").read_text())
    except FileNotFoundError:
        return None


def holds_run(folder: Path, parts: Mapping[str, DictConfig]) -> bool:
    """Whether one of the parts was begun; they are in sub-folders, or in "." if there is one."""
    return any(metadata_of(folder / part) for part in parts)


def is_done(folder: Path, parts: Mapping[str, DictConfig]) -> bool:
    """Whether there is nothing left to do."""
    found = [metadata_of(folder / part) for part in parts]
    are_done = all(metadata is not None and metadata["status"] == "DONE" for metadata in found)
    return are_done and (folder / "report.html").exists()


def refuse_another(folder: Path, config: DictConfig) -> None:
    """Raise a BadConfig if the folder holds a run of another configuration."""
    changed = differences(folder, config)
    if changed:
        raise BadConfig(
            f"{folder} holds a run of another configuration ({'; '.join(changed)}): "
            "choose another folder, or delete it"
        )


def differences(folder: Path, config: DictConfig) -> list[str]:
    """The keys in which a folder's run differs, as "key: its value, now our value"."""
    path = folder / "config.yaml"
    if not path.exists():
        return []
    theirs = dict(_flat(OmegaConf.to_container(OmegaConf.load(path))))
    ours = dict(_flat(OmegaConf.to_container(config, resolve=True)))
    missing = "not there"
    return [
        f"{key}: {theirs.get(key, missing)}, now {ours.get(key, missing)}"
        for key in sorted(theirs.keys() | ours.keys())
        if theirs.get(key, missing) != ours.get(key, missing)
    ]


def newest_unfinished(parent: Path, parts: Mapping[str, DictConfig]) -> Path:
    """The folder in `parent` with the newest unfinished run of a configuration.

    Raises:
        BadConfig: there is none.
    """
    found = []
    for folder in parent.iterdir():
        begun = [(part, metadata_of(folder / part)) for part in parts]
        begun = [(part, metadata) for part, metadata in begun if metadata is not None]
        if not begun or is_done(folder, parts):
            continue
        if any(differences(folder / part, parts[part]) for part, _ in begun):
            continue
        if not any(_is_in_use(folder / part) for part, _ in begun):
            found.append((max(metadata["started"] for _, metadata in begun), folder))
    if not found:
        raise BadConfig(f"resume=true, but {parent} holds no unfinished run of this configuration")
    return max(found)[1]


def _is_in_use(folder: Path) -> bool:
    with (folder / "metrics.jsonl").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(node, dict) or not node:
        yield prefix, node
        return
    for key, item in node.items():
        yield from _flat(item, f"{prefix}.{key}" if prefix else str(key))
