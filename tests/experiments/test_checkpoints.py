"""Which checkpoints are kept, which are refused, and what is used instead."""

import errno
import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.harness.checkpoints import Checkpoints
from experiments.harness.errors import BadConfig, Stopped

TREE = {"state": np.arange(6.0).reshape(2, 3), "flags": np.array([True, False]), "none": None}


def tree(epoch: int) -> dict:
    return jax.tree.map(lambda leaf: leaf + epoch if leaf.dtype == float else leaf, TREE)


class Folder:
    """Checkpoints after epochs 2, 4, 6 and 8, of which 4 is the best."""

    def __init__(self, path: Path):
        self.path, self.said = path / "exact", []
        with self.open() as checkpoints:
            for epoch in (2, 4, 6, 8):
                score = abs(epoch - 4.0)
                checkpoints.save(epoch, tree(epoch), score=score, note={"evaluated": [epoch]})

    def open(self, identity: str = "ours") -> Checkpoints:
        return Checkpoints(self.path, identity=identity, say=self.said.append)

    def restore(self, **options):
        with self.open(**options) as checkpoints:
            return checkpoints.restore(lambda note: TREE)

    def epochs(self) -> list[str]:
        return sorted(path.name for path in self.path.iterdir())


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def data_of(checkpoint: Path) -> Path:
    """The file that holds most of the arrays."""
    files = (path for path in (checkpoint / "arrays").rglob("*") if path.is_file())
    return max(files, key=lambda path: path.stat().st_size)


def test_the_last_two_and_the_best_are_kept(folder):
    assert folder.epochs() == ["4", "6", "8"]
    saved = folder.restore()
    assert (saved.epoch, saved.note) == (8, {"evaluated": [8]})
    np.testing.assert_array_equal(saved.arrays["state"], tree(8)["state"])
    assert saved.arrays["flags"].dtype == bool
    assert folder.said == []


def truncate(checkpoint: Path) -> None:
    os.truncate(data_of(checkpoint), 10)


def empty(checkpoint: Path) -> None:
    for path in sorted(checkpoint.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def forge(checkpoint: Path) -> None:
    """Whole for orbax, but with another epoch's numbers."""
    (checkpoint / "arrays").rename(checkpoint / "old")
    (checkpoint.parent / "6" / "arrays").rename(checkpoint / "arrays")
    (checkpoint / "old").rename(checkpoint.parent / "6" / "arrays")


def cut_note(checkpoint: Path) -> None:
    os.truncate(checkpoint / "about" / "metadata", 20)


@pytest.mark.parametrize(
    ("damage", "reason", "instead"),
    [
        (truncate, "it cannot be read", 6),
        (empty, "it cannot be read", 6),
        (cut_note, "it cannot be read", 6),
        (forge, "its numbers are not those that were saved", 4),
    ],
    ids=["truncated", "empty", "note cut", "another's numbers"],
)
def test_a_damaged_one_is_refused_and_the_one_before_is_used(folder, damage, reason, instead):
    damage(folder.path / "8")
    saved = folder.restore()
    assert saved.epoch == instead
    np.testing.assert_array_equal(saved.arrays["state"], tree(instead)["state"])
    assert folder.said[0].startswith(f"refused checkpoint {folder.path / '8'}: {reason}")
    assert folder.said[-1] == f"uses {instead} instead"
    # Out of the way: the epoch can be saved again.
    with folder.open() as checkpoints:
        assert checkpoints.restore(lambda note: TREE).epoch == instead
        checkpoints.save(8, tree(8), score=0.0, note={})
    assert folder.restore().epoch == 8


def test_a_foreign_one_is_refused_and_the_one_before_is_used(folder):
    path = folder.path / "8" / "about" / "metadata"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"identity": "theirs"}))
    assert folder.restore().epoch == 6
    assert "it belongs to a run of another configuration" in folder.said[0]


def test_a_folder_of_foreign_ones_is_refused(folder):
    with pytest.raises(BadConfig, match=r"exact holds another run's checkpoints: \[4, 6, 8\]"):
        folder.restore(identity="theirs")
    assert folder.epochs() == ["4", "6", "8"]


@pytest.mark.parametrize("other", [{"state": np.zeros((2, 3))}, TREE | {"state": np.zeros((2, 4))}])
def test_other_shapes_are_foreign(folder, other):
    with pytest.raises(BadConfig, match="holds another run's"), folder.open() as checkpoints:
        checkpoints.restore(lambda note: other)
    assert "its arrays are not those of this run" in folder.said[0]


def test_without_a_whole_one_it_starts_from_the_beginning(folder):
    for epoch in folder.epochs():
        truncate(folder.path / epoch)
    assert folder.restore() is None
    assert folder.said[-1] == "starts from the beginning instead"


def test_what_a_kill_leaves_of_a_save_is_not_seen(folder):
    (folder.path / "10.orbax-checkpoint-tmp").mkdir()
    assert folder.restore().epoch == 8
    with folder.open() as checkpoints:
        checkpoints.save(10, tree(10), score=0.0, note={})
    assert folder.epochs() == ["10", "8"]


def test_a_failed_save_is_told_and_leaves_the_others(folder, monkeypatch):
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("orbax.checkpoint.args.PyTreeSave", full)
    with pytest.raises(Stopped, match="exact cannot be written to: No space left on device"):  # noqa: SIM117
        with folder.open() as checkpoints:
            checkpoints.save(10, tree(10), score=0.0, note={})
    monkeypatch.undo()
    assert folder.restore().epoch == 8
