"""Checkpoints of one training: a file each, that is whole or is refused.

    irnn_jax checkpoint 1 SIZE SHA256      of all that follows
    {"epoch": ..., "leaves": ...}          a line of JSON: what is in it, and whose it is
    ...                                    the arrays, one after the other, as they lie in memory

One digest covers every byte, so no damage reads as other numbers. A file that is damaged, or is
another run's, is refused and set aside, and the one before is used.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.runner import processes
from experiments.runner.errors import BadConfig, disk_errors, one_line
from experiments.runner.files import write_whole

MAGIC = "irnn_jax checkpoint 1"
NUM_LAST = 2  # so that there is one before the newest


class Saved(NamedTuple):
    """A restored checkpoint: after which epoch, the arrays, and what was noted with them."""

    epoch: int
    arrays: Any
    note: dict[str, Any]


class Damaged(Exception):
    """A checkpoint that is not whole."""


class Foreign(Exception):
    """A checkpoint of another run."""


class Checkpoints:
    """The checkpoints in a folder: the last two and the best.

    Args:
        folder: where they are; made with the first of them.
        identity: of the run, for instance a digest of its configuration; others' are refused.
        say: called with a line about each checkpoint that is refused.
    """

    def __init__(self, folder: Path, *, identity: str, say: Callable[[str], None]):
        self._folder, self._identity, self._say = folder, identity, say
        self._scores: dict[int, float] = {}  # of those that have been read or written

    def save(self, epoch: int, arrays: Any, *, score: float, note: Mapping[str, Any]) -> None:
        """Save, and keep the last two and the one with the smallest score."""
        if not processes.is_first():
            return
        about = {"epoch": epoch, "identity": self._identity, "score": score, "note": dict(note)}
        with disk_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(self._folder / str(epoch), encode(about, arrays))
            self._scores[epoch] = score
            self._prune()

    def restore(self, like: Callable[[dict[str, Any]], Any]) -> Saved | None:
        """The newest checkpoint that is whole and this run's; None without one.

        Args:
            like: the note -> a tree of the shapes and dtypes that the arrays must have.

        Raises:
            BadConfig: there are checkpoints, and all of them are other runs'.
        """
        epoch = processes.decide(lambda: self._newest(like))
        if epoch is None:
            return None
        path = self._folder / str(epoch)
        data = processes.share(path.read_bytes() if processes.is_first() else b"")
        about, leaves = decode(data)
        structure = jax.tree.structure(like(about["note"]))
        return Saved(epoch, jax.tree.unflatten(structure, leaves), about["note"])

    def _newest(self, like: Callable[[dict[str, Any]], Any]) -> int | None:
        found, refused = None, {}
        for epoch in sorted(self._epochs(), reverse=True):
            try:
                about = self._read(epoch)
                if about["leaves"] != _description(like(about["note"])):
                    raise Foreign("its arrays are not those of this run")
            except (Damaged, Foreign) as reason:
                refused[epoch] = reason
                self._say(f"refused checkpoint {self._folder / str(epoch)}: {reason}")
            else:
                found = epoch
                break
        if found is None and any(isinstance(reason, Foreign) for reason in refused.values()):
            raise BadConfig(f"{self._folder} holds another run's checkpoints: {sorted(refused)}")
        for epoch in refused:
            self._set_aside(epoch)
        if refused:
            before = "starts from the beginning" if found is None else f"uses {found}"
            self._say(f"{before} instead")
        return found

    def _read(self, epoch: int) -> dict[str, Any]:
        about, _ = contents(self._folder / str(epoch))
        if about["identity"] != self._identity:
            raise Foreign("it belongs to a run of another configuration")
        if about["epoch"] != epoch:
            raise Damaged(f"it is of epoch {about['epoch']}")
        return about

    def _epochs(self) -> list[int]:
        if not self._folder.is_dir():
            return []
        return [int(path.name) for path in self._folder.iterdir() if path.name.isdecimal()]

    def _prune(self) -> None:
        """Keep the last and the best; what cannot be read was neither, and is not lost."""
        epochs = sorted(self._epochs())
        for epoch in [epoch for epoch in epochs if epoch not in self._scores]:
            try:
                self._scores[epoch] = self._read(epoch)["score"]
            except (Damaged, Foreign) as reason:
                self._say(f"refused checkpoint {self._folder / str(epoch)}: {reason}")
                self._set_aside(epoch)
                epochs.remove(epoch)
        best = min(reversed(epochs), key=self._scores.__getitem__)  # of equals the newest
        kept = {*epochs[-NUM_LAST:], best}
        for epoch in set(epochs) - kept:
            (self._folder / str(epoch)).unlink()
        for partial in self._folder.glob("*.tmp"):  # what a kill left of a save
            partial.unlink()

    def _set_aside(self, epoch: int) -> None:
        """Out of the way, but not lost: next to the folder, under a name that is free."""
        parent = self._folder.with_name(self._folder.name + ".refused")
        parent.mkdir(exist_ok=True)
        number = sum(1 for _ in parent.iterdir())
        (self._folder / str(epoch)).rename(parent / f"{epoch}-{number}")


def encode(about: Mapping[str, Any], arrays: Any) -> bytes:
    """A checkpoint's bytes: what it says about itself, and a tree of arrays on the host."""
    header = json.dumps({**about, "leaves": _description(arrays)}, allow_nan=False).encode()
    leaves = (np.ascontiguousarray(leaf).tobytes() for leaf in jax.tree.leaves(arrays))
    body = b"".join((header, b"\n", *leaves))
    return f"{MAGIC} {len(body)} {hashlib.sha256(body).hexdigest()}\n".encode() + body


def decode(data: bytes) -> tuple[dict[str, Any], list[np.ndarray]]:
    """What a checkpoint says about itself, and its arrays in order.

    Raises:
        Damaged: a bit or more differ from what was written.
    """
    first, _, body = data.partition(b"\n")
    start = f"{MAGIC} {len(body)} ".encode()
    if not first.startswith(start):
        raise Damaged(f"it cannot be read ({len(data)} bytes that are no whole checkpoint)")
    if first != start + hashlib.sha256(body).hexdigest().encode():
        raise Damaged("its numbers are not those that were saved")
    header, _, numbers = body.partition(b"\n")
    about, arrays, begin = json.loads(header), [], 0
    for _, dtype, shape in about["leaves"]:
        end = begin + math.prod(shape) * np.dtype(dtype).itemsize
        # Copied: aligned, and no array holds on to the whole file.
        arrays.append(np.frombuffer(bytearray(numbers[begin:end]), dtype).reshape(shape))
        begin = end
    return about, arrays


def contents(path: Path) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The same of a file.

    Raises:
        Damaged: it cannot be read, or a bit or more differ from what was written.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Damaged(f"it cannot be read ({one_line(error)})") from error
    return decode(data)


def _description(tree: Any) -> list[list[Any]]:
    """Path, dtype and shape of each leaf, as JSON has them."""
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [
        [jax.tree_util.keystr(path), np.dtype(leaf.dtype).name, [*leaf.shape]]
        for path, leaf in paths
    ]
