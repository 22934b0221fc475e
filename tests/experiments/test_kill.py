"""A run killed at random moments ends with the very files of one that was left alone."""

import random
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.experiments.commands import TWO_NETWORKS, finish, metadata, results, start

LONGEST = 300.0  # seconds that a process may take for the lines it is waited for


def kill_sometime(
    process: subprocess.Popen[str], folder: Path, moment: str, rng: random.Random
) -> None:
    """Kill while it starts, or once some lines or a checkpoint more are there, in mid-epoch."""
    if moment == "start":
        time.sleep(rng.uniform(0.0, 4.0))
    else:
        lines, saved = num_lines(folder), checkpoints(folder)
        wanted = lines + rng.randint(1, 5)
        deadline = time.monotonic() + LONGEST
        while process.poll() is None and (
            num_lines(folder) < wanted if moment == "lines" else checkpoints(folder) <= saved
        ):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(rng.uniform(0.0, 0.1))
    process.kill()
    process.communicate()


def num_lines(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def checkpoints(folder: Path) -> set[Path]:
    """Those that were saved whole."""
    return set(folder.glob("checkpoints/*/[0-9]")) | set(folder.glob("checkpoints/*/[0-9][0-9]"))


def kill_and_finish(
    folder: Path, *overrides: str, cache: Path, moments: Sequence[str], rng: random.Random
) -> str:
    """Kill a run again and again, then let it finish: what it then says."""
    for moment in moments:
        process = start(folder, *overrides, cache=cache)
        kill_sometime(process, folder, moment, rng)
        assert process.returncode == -9, "the run was done before it could be killed"
    assert metadata(folder)["status"] == "RUNNING"
    assert not (folder / "report.html").exists()
    status, errors = finish(start(folder, *overrides, cache=cache))
    assert status == 0, errors
    assert metadata(folder)["status"] == "DONE"
    return errors


@pytest.mark.timeout(900)
def test_a_run_killed_twice_is_the_run_that_was_left_alone(tmp_path, cache, alone):
    folder = tmp_path / "killed"
    moments = ("checkpoint", "lines")
    said = kill_and_finish(
        folder, *TWO_NETWORKS, cache=cache, moments=moments, rng=random.Random(2)
    )
    assert "from a checkpoint" in said
    assert results(folder) == results(alone)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_run_killed_20_times_is_the_run_that_was_left_alone(tmp_path, cache):
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    status, errors = finish(start(alone, "num_epochs=60", cache=cache))
    assert status == 0, errors
    rng = random.Random(20)
    moments = rng.choices(("start", "lines", "checkpoint"), (1, 2, 1), k=20)
    kill_and_finish(killed, "num_epochs=60", cache=cache, moments=moments, rng=rng)
    # Some were killed before they had begun; the others must have begun, and gone on.
    assert len(metadata(killed)["resumed"]) > 10
    assert results(killed) == results(alone)
