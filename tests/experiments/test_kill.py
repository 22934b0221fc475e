"""A run killed at random moments ends with the very files of one that was left alone."""

import random
import subprocess
import time
from pathlib import Path

import pytest

from tests.experiments.commands import TWO_NETWORKS, finish, metadata, results, start

LONGEST = 300.0  # seconds that a process may take for the lines it is waited for


def kill_sometime(process: subprocess.Popen[str], metrics: Path, rng: random.Random) -> None:
    """Kill while it starts, or once some lines more are on record, at any moment of an epoch."""
    if rng.random() < 0.25:
        time.sleep(rng.uniform(0.0, 4.0))
    else:
        wanted = num_lines(metrics) + rng.randint(1, 5)
        deadline = time.monotonic() + LONGEST
        while num_lines(metrics) < wanted and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(rng.uniform(0.0, 0.1))
    process.kill()
    process.communicate()


def num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_and_finish(folder: Path, *overrides: str, cache: Path, num_kills: int, seed: int) -> str:
    """Kill a run again and again, then let it finish: what it then says."""
    rng = random.Random(seed)
    for _ in range(num_kills):
        process = start(folder, *overrides, cache=cache)
        kill_sometime(process, folder / "metrics.jsonl", rng)
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
    said = kill_and_finish(folder, *TWO_NETWORKS, cache=cache, num_kills=2, seed=2)
    assert "from a checkpoint" in said
    assert results(folder) == results(alone)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_run_killed_20_times_is_the_run_that_was_left_alone(tmp_path, cache):
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    status, errors = finish(start(alone, "num_epochs=60", cache=cache))
    assert status == 0, errors
    kill_and_finish(killed, "num_epochs=60", cache=cache, num_kills=20, seed=20)
    # Some were killed before they had begun; the others must have begun, and gone on.
    assert len(metadata(killed)["resumed"]) > 10
    assert results(killed) == results(alone)
