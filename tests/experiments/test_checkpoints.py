"""Which checkpoints are kept, which are refused, and what is used instead."""

import errno
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.runner.checkpoints import Checkpoints, Damaged, contents, decode, encode
from experiments.runner.errors import BadConfig, Stopped

TREE = {"state": np.arange(6.0).reshape(2, 3), "flags": np.array([True, False]), "none": None}


def tree(epoch: int) -> dict:
    return jax.tree.map(lambda leaf: leaf + epoch if leaf.dtype == float else leaf, TREE)


class Folder:
    """Checkpoints after epochs 2, 4, 6 and 8, of which 4 is the best."""

    def __init__(self, path: Path):
        self.path, self.said = path / "exact", []
        checkpoints = self.open()
        for epoch in (2, 4, 6, 8):
            score = abs(epoch - 4.0)
            checkpoints.save(epoch, tree(epoch), score=score, note={"evaluated": [epoch]})

    def open(self, identity: str = "ours") -> Checkpoints:
        return Checkpoints(self.path, identity=identity, say=self.said.append)

    def restore(self, **options):
        return self.open(**options).restore(lambda note: TREE)

    def epochs(self) -> list[str]:
        return sorted(path.name for path in self.path.iterdir())


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_the_last_two_and_the_best_are_kept(folder):
    assert folder.epochs() == ["4", "6", "8"]
    saved = folder.restore()
    assert (saved.epoch, saved.note) == (8, {"evaluated": [8]})
    np.testing.assert_array_equal(saved.arrays["state"], tree(8)["state"])
    assert saved.arrays["flags"].dtype == bool
    assert folder.said == []


def truncate(checkpoint: Path) -> None:
    os.truncate(checkpoint, checkpoint.stat().st_size - 10)


def empty(checkpoint: Path) -> None:
    os.truncate(checkpoint, 0)


def forge(checkpoint: Path) -> None:
    """Whole as far as it goes, but with another epoch's numbers; and the other one with these."""
    paths = checkpoint, checkpoint.parent / "6"
    heads, bodies = [], []
    for path in paths:
        first, header, numbers = path.read_bytes().split(b"\n", 2)
        heads.append(b"\n".join((first, header, b"")))
        bodies.append(numbers)
    for path, head, body in zip(paths, heads, reversed(bodies), strict=True):
        path.write_bytes(head + body)


def cut_note(checkpoint: Path) -> None:
    os.truncate(checkpoint, checkpoint.read_bytes().index(b"evaluated"))


def replace_by_a_folder(checkpoint: Path) -> None:
    checkpoint.unlink()
    checkpoint.mkdir()


@pytest.mark.parametrize(
    ("damage", "reason", "instead"),
    [
        (truncate, "it cannot be read", 6),
        (empty, "it cannot be read", 6),
        (cut_note, "it cannot be read", 6),
        (replace_by_a_folder, "it cannot be read", 6),
        (forge, "its numbers are not those that were saved", 4),
    ],
    ids=["truncated", "empty", "note cut", "a folder", "another's numbers"],
)
def test_a_damaged_one_is_refused_and_the_one_before_is_used(folder, damage, reason, instead):
    damage(folder.path / "8")
    saved = folder.restore()
    assert saved.epoch == instead
    np.testing.assert_array_equal(saved.arrays["state"], tree(instead)["state"])
    assert folder.said[0].startswith(f"refused checkpoint {folder.path / '8'}: {reason}")
    assert folder.said[-1] == f"uses {instead} instead"
    # Out of the way: the epoch can be saved again.
    checkpoints = folder.open()
    assert checkpoints.restore(lambda note: TREE).epoch == instead
    checkpoints.save(8, tree(8), score=0.0, note={})
    assert folder.restore().epoch == 8
    assert (folder.path.with_name("exact.refused") / "8-0").exists()


@pytest.mark.parametrize("bit", [0, 5])
def test_any_flipped_bit_is_refused_in_one_line_and_the_one_before_is_used(folder, bit):
    path = folder.path / "8"
    whole = path.read_bytes()
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << bit
        path.write_bytes(flipped)
        folder.said.clear()
        saved = folder.restore()
        assert saved.epoch == 6, place
        np.testing.assert_array_equal(saved.arrays["state"], tree(6)["state"])
        refusal, instead = folder.said
        assert refusal.startswith(f"refused checkpoint {path}: it")
        assert "\n" not in refusal
        assert instead == "uses 6 instead"


def test_a_file_cut_anywhere_or_longer_is_refused(folder):
    whole = (folder.path / "8").read_bytes()
    for size in range(len(whole)):
        with pytest.raises(Damaged):
            decode(whole[:size])
    with pytest.raises(Damaged):
        decode(whole + b"\0")


def test_every_array_comes_back_as_it_was():
    arrays = {
        "none": None,
        "empty": np.zeros((0, 3)),
        "number": np.array(-0.0),
        "small": np.arange(3, dtype="uint8"),
        "columns": np.asfortranarray(np.arange(6, dtype="float32").reshape(2, 3)),
        "half": np.asarray(jax.numpy.ones(2, "bfloat16")),
    }
    about, found = decode(encode({"epoch": 3}, arrays))
    assert about["epoch"] == 3
    for expected, array in zip(jax.tree.leaves(arrays), found, strict=True):
        assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
        assert array.tobytes() == expected.tobytes()


def test_a_damaged_one_that_is_not_needed_is_set_aside(folder):
    truncate(folder.path / "4")
    folder.open().save(10, tree(10), score=5.0, note={})
    assert folder.epochs() == ["10", "6", "8"]  # 6 is now the best that can be read
    assert folder.said[0].startswith(f"refused checkpoint {folder.path / '4'}: it cannot be read")
    assert (folder.path.with_name("exact.refused") / "4-0").exists()


def test_a_foreign_one_is_refused_and_the_one_before_is_used(folder):
    path = folder.path / "8"
    about, _ = contents(path)
    path.write_bytes(encode(about | {"identity": "theirs"}, tree(8)))
    assert folder.restore().epoch == 6
    assert "it belongs to a run of another configuration" in folder.said[0]


def test_a_folder_of_foreign_ones_is_refused(folder):
    with pytest.raises(BadConfig, match=r"exact holds another run's checkpoints: \[4, 6, 8\]"):
        folder.restore(identity="theirs")
    assert folder.epochs() == ["4", "6", "8"]


@pytest.mark.parametrize("other", [{"state": np.zeros((2, 3))}, TREE | {"state": np.zeros((2, 4))}])
def test_other_shapes_are_foreign(folder, other):
    with pytest.raises(BadConfig, match="holds another run's"):
        folder.open().restore(lambda note: other)
    assert "its arrays are not those of this run" in folder.said[0]


def test_without_a_whole_one_it_starts_from_the_beginning(folder):
    for epoch in folder.epochs():
        truncate(folder.path / epoch)
    assert folder.restore() is None
    assert folder.said[-1] == "starts from the beginning instead"


def test_what_a_kill_leaves_of_a_save_is_not_seen(folder):
    (folder.path / "10.tmp").write_bytes(b"half")
    assert folder.restore().epoch == 8
    folder.open().save(10, tree(10), score=0.0, note={})
    assert folder.epochs() == ["10", "8"]


def test_a_failed_save_is_told_and_leaves_the_others(folder, monkeypatch):
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(Stopped, match="exact cannot be written to: No space left on device"):
        folder.open().save(10, tree(10), score=0.0, note={})
    monkeypatch.undo()
    assert folder.epochs() == ["4", "6", "8"]  # no half of it takes the room of what comes next
    assert folder.restore().epoch == 8
