"""What a folder says of the run in it, and which folder to go on in."""

import fcntl
import sys
from collections.abc import Mapping
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from experiments.report.settings import flat
from experiments.runner import metadata
from experiments.runner.errors import BadConfig, one_line

# Where and how a run is computed, and not what: not part of its record, and free to change.
MACHINE = ("resume", "devices", "compilation_cache", "distributed", "tensorboard")


def what_is_run(config: DictConfig) -> DictConfig:
    """The configuration without the keys that only concern the machine."""
    return OmegaConf.masked_copy(config, [str(key) for key in config if key not in MACHINE])


def holds_run(folder: Path, parts: Mapping[str, DictConfig]) -> bool:
    """Whether one of the parts was begun; they are in sub-folders, or in "." if there is one."""
    return any(metadata.read(folder / part) for part in parts)


def is_done(folder: Path, parts: Mapping[str, DictConfig]) -> bool:
    """Whether there is nothing left to do."""
    found = [metadata.read(folder / part) for part in parts]
    are_done = all(known is not None and known["status"] == "DONE" for known in found)
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
    """The keys in which a folder's run differs, as "key: its value, now our value".

    Raises:
        BadConfig: its configuration cannot be read.
    """
    path = folder / "config.yaml"
    try:
        theirs = dict(flat(OmegaConf.to_container(OmegaConf.load(path))))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (YAMLError, OmegaConfBaseException, OSError, ValueError, TypeError) as error:
        raise BadConfig(f"{path} is damaged ({one_line(error)}): choose another folder") from error
    ours = dict(flat(OmegaConf.to_container(config, resolve=True)))
    missing = "not there"
    return [
        f"{key}: {theirs.get(key, missing)}, now {ours.get(key, missing)}"
        for key in sorted(theirs.keys() | ours.keys(), key=str)
        if theirs.get(key, missing) != ours.get(key, missing)
    ]


def newest_unfinished(parent: Path, parts: Mapping[str, DictConfig]) -> Path:
    """The folder in `parent` with the newest unfinished run of a configuration.

    Raises:
        BadConfig: there is none.
    """
    found = []
    for folder in parent.iterdir():
        try:
            started = _unfinished(folder, parts)
        except BadConfig as error:  # a damaged one does not hide the others
            print(f"left out: {error}", file=sys.stderr)
            continue
        if started is not None:
            found.append((started, folder))
    if not found:
        raise BadConfig(f"resume=true, but {parent} holds no unfinished run of this configuration")
    return max(found)[1]


def _unfinished(folder: Path, parts: Mapping[str, DictConfig]) -> str | None:
    """When the folder's unfinished run of this configuration was begun; None without one."""
    known = {part: metadata.read(folder / part) for part in parts}
    begun = {part: found["started"] for part, found in known.items() if found is not None}
    if not begun or is_done(folder, parts):
        return None
    if any(differences(folder / part, parts[part]) or _is_in_use(folder / part) for part in begun):
        return None
    return max(begun.values())


def _is_in_use(folder: Path) -> bool:
    with (folder / "metrics.jsonl").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
