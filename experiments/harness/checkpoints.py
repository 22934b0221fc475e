"""Checkpoints of one training, by orbax: saved whole or not at all, verified when restored.

What is saved is a tree of arrays, on the host, next to a note of what they are. A checkpoint that
is not what its note says, or is another run's, is refused, and the one before is used.
"""

import contextlib
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as keeping
from orbax.checkpoint.options import MultiprocessingOptions

from experiments.harness import processes
from experiments.harness.errors import BadConfig, disk_errors

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
    """The checkpoints in a folder, the last two and the best, as a context manager.

    Args:
        folder: where they are; made with the first of them.
        identity: of the run, for instance a digest of its configuration; others' are refused.
        say: called with a line about each checkpoint that is refused.
    """

    def __init__(self, folder: Path, *, identity: str, say: Callable[[str], None]):
        self._folder = folder.resolve()  # orbax fails on a relative path, in another thread
        self._identity, self._say = identity, say
        self._manager: ocp.CheckpointManager | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if self._manager is None:
            return
        try:
            if error is None:
                self.wait()
                self._manager.close()
            else:  # of a save that failed or will not be waited for nothing is used
                with contextlib.suppress(Exception):  # the error on its way says more
                    self._manager.close()
        finally:
            for partial in self._folder.glob("*.orbax-checkpoint-tmp"):
                shutil.rmtree(partial, ignore_errors=True)

    def save(self, epoch: int, arrays: Any, *, score: float, note: Mapping[str, Any]) -> None:
        """Begin to save, in the background; the smaller the score the better.

        The arrays must not change afterwards. What goes wrong is raised by this, the next `save`
        or `wait`.
        """
        if not processes.is_first():
            return
        leaves = _leaves(arrays)
        about = {
            "epoch": epoch,
            "identity": self._identity,
            "leaves": _description(leaves),
            "digest": _digest(leaves),
            "note": dict(note),
        }
        named = {f"{i:04}": leaf for i, leaf in enumerate(leaves.values())}
        with disk_errors(self._folder):
            items = ocp.args.Composite(
                arrays=ocp.args.PyTreeSave(named), about=ocp.args.JsonSave(about)
            )
            self._opened().save(epoch, args=items, metrics={"score": score})

    def wait(self) -> None:
        """Return when everything is on disk."""
        if self._manager is not None:
            with disk_errors(self._folder):
                self._manager.wait_until_finished()

    def restore(self, like: Callable[[dict[str, Any]], Any]) -> Saved | None:
        """The newest checkpoint that is whole and this run's; None without one.

        Args:
            like: the note -> a tree of the shapes and dtypes that the arrays must have.

        Raises:
            BadConfig: there are checkpoints, and all of them are other runs'.
        """
        if jax.process_count() == 1:
            return self._newest(like)
        found = self._newest(like) if processes.is_first() else None
        about = None if found is None else {"epoch": found.epoch, "note": found.note}
        about = processes.decide(lambda: about)
        if about is None:
            return None
        leaves = [] if found is None else jax.tree.leaves(found.arrays)
        data = processes.share(b"".join(leaf.tobytes() for leaf in leaves))
        return Saved(about["epoch"], _cut(data, like(about["note"])), about["note"])

    def _newest(self, like: Callable[[dict[str, Any]], Any]) -> Saved | None:
        found, refused = None, {}
        for epoch in sorted(self._epochs(), reverse=True):
            try:
                found = self._read(epoch, like)
                break
            except (Damaged, Foreign) as reason:
                refused[epoch] = reason
                self._say(f"refused checkpoint {self._folder / str(epoch)}: {reason}")
        if found is None and any(isinstance(reason, Foreign) for reason in refused.values()):
            raise BadConfig(f"{self._folder} holds another run's checkpoints: {sorted(refused)}")
        for epoch in refused:  # orbax would not save an epoch before one that is there
            _set_aside(self._folder / str(epoch))
        if refused:
            before = "starts from the beginning" if found is None else f"uses {found.epoch}"
            self._say(f"{before} instead")
        return found

    def _epochs(self) -> list[int]:
        if not self._folder.is_dir():
            return []
        return [int(path.name) for path in self._folder.iterdir() if path.name.isdecimal()]

    def _read(self, epoch: int, like: Callable[[dict[str, Any]], Any]) -> Saved:
        about, arrays = contents(self._folder / str(epoch))
        if about["identity"] != self._identity:
            raise Foreign("it belongs to a run of another configuration")
        if about["epoch"] != epoch:
            raise Damaged(f"it is of epoch {about['epoch']}")
        expected = jax.tree_util.tree_flatten_with_path(like(about["note"]))
        paths = [jax.tree_util.keystr(path) for path, _ in expected[0]]
        leaves = dict(zip(paths, arrays, strict=False))
        wanted = _description({p: leaf for p, (_, leaf) in zip(paths, expected[0], strict=True)})
        if len(arrays) != len(paths) or not wanted == about["leaves"] == _description(leaves):
            raise Foreign("its arrays are not those of this run")
        if _digest(leaves) != about["digest"]:
            raise Damaged("its numbers are not those that were saved")
        return Saved(epoch, jax.tree.unflatten(expected[1], arrays), about["note"])

    def _opened(self) -> ocp.CheckpointManager:
        if self._manager is None:
            self._folder.mkdir(parents=True, exist_ok=True)

            def score(metrics: Any) -> float:
                return metrics["score"]

            best = keeping.BestN(get_metric_fn=score, reverse=True, n=1)
            self._manager = ocp.CheckpointManager(
                self._folder,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=keeping.AnyPreservationPolicy(
                        [keeping.LatestN(NUM_LAST), best]
                    ),
                    best_fn=score,  # without it the scores are not saved
                    best_mode="min",
                    cleanup_tmp_directories=True,  # what a killed save left
                    create=False,
                    multiprocessing_options=_alone(),
                ),
            )
        return self._manager


def _alone() -> MultiprocessingOptions:
    """This process saves and restores without waiting for others, if there are any."""
    if jax.process_count() == 1:
        return MultiprocessingOptions()
    here = jax.process_index()
    return MultiprocessingOptions(
        primary_host=here, active_processes={here}, barrier_sync_key_prefix=f"process{here}"
    )


def contents(path: Path) -> tuple[dict[str, Any], list[np.ndarray]]:
    """What a checkpoint says about itself, and its arrays in order."""
    # Not by orbax, which returns an empty folder's contents as an empty tree.
    try:
        about = json.loads((path / "about" / "metadata").read_text())
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            arrays = reader.restore(path / "arrays")
        arrays = [np.asarray(arrays[name]) for name in sorted(arrays)]
        if not {"epoch", "identity", "leaves", "digest", "note"} <= about.keys():
            raise Damaged("it does not say what it holds")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"it cannot be read ({_one_line(error)})") from error
    return about, arrays


def _cut(data: bytes, like: Any) -> Any:
    """Arrays of known shapes from their bytes, one after the other."""
    leaves, structure = jax.tree.flatten(like)
    start, arrays = 0, []
    for leaf in leaves:
        array = np.frombuffer(data, leaf.dtype, math.prod(leaf.shape), start)
        arrays.append(array.reshape(leaf.shape))
        start += array.nbytes
    return jax.tree.unflatten(structure, arrays)


def _set_aside(path: Path) -> None:
    """Out of orbax's sight, but not lost: next to the folder, under a name that is free."""
    parent = path.parent.with_name(path.parent.name + ".refused")
    parent.mkdir(exist_ok=True)
    number = sum(1 for _ in parent.iterdir())
    path.rename(parent / f"{path.name}-{number}")


def _leaves(tree: Any) -> dict[str, np.ndarray]:
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in paths}


def _description(leaves: Mapping[str, Any]) -> dict[str, str]:
    return {path: f"{np.dtype(leaf.dtype).name}{[*leaf.shape]}" for path, leaf in leaves.items()}


def _digest(leaves: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for leaf in leaves.values():
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
