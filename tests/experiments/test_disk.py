"""A disk that is full ends a run with one line, and the run goes on when there is room."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.experiments.commands import TWO_NETWORKS, finish, metadata, results, start

ENOUGH_FOR_A_WHILE = "60k"


class Disk(NamedTuple):
    """A folder with little room; without the right to mount one, a limit on the size of files."""

    folder: Path
    largest_file: int | None
    error: str

    def enlarge(self) -> None:
        if self.largest_file is None:
            subprocess.run(["mount", "-o", "remount,size=64m", self.folder], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={ENOUGH_FOR_A_WHILE}", "tmpfs", str(folder)]
    try:
        is_mounted = subprocess.run(mount, capture_output=True).returncode == 0
    except OSError:
        is_mounted = False
    if not is_mounted:
        yield Disk(folder, 8000, "File too large")
        return
    yield Disk(folder, None, "No space left on device")
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.timeout(900)
def test_a_full_disk(disk, cache, alone):
    run = disk.folder / "run"
    status, errors = finish(start(run, *TWO_NETWORKS, cache=cache, largest_file=disk.largest_file))
    assert status == 1
    *progress, last = errors.splitlines()
    assert last.startswith(f"pendulum: error: {run}")
    assert last.endswith(f"cannot be written to: {disk.error}")
    assert all(line.startswith("pendulum ") for line in progress), errors
    assert metadata(run)["status"] != "DONE"

    disk.enlarge()
    status, errors = finish(start(run, *TWO_NETWORKS, cache=cache))
    assert status == 0, errors
    assert "from a checkpoint" in errors
    assert "refused" not in errors
    assert results(run) == results(alone)
