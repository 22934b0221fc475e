"""A run killed at random moments ends with the very files of one that was left alone."""

import json
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.experiments.commands import finish, results, start

KILLS = [
    pytest.param(2, ("~networks.semi",), id="2 kills"),
    pytest.param(20, ("num_epochs=60",), id="20 kills", marks=pytest.mark.slow),
]
LONGEST = 300.0  # seconds that a process may take for the lines it is waited for


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled programs: what is killed here while it compiles must not compile again."""
    return tmp_path_factory.mktemp("cache")


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


def attempts(folder: Path) -> Iterator[str]:
    metadata = json.loads((folder / "metadata.json").read_text())
    yield metadata["started"]
    yield from metadata.get("resumed", [])


@pytest.mark.timeout(3000)
@pytest.mark.parametrize(("num_kills", "overrides"), KILLS)
def test_a_killed_run_is_the_run_that_was_left_alone(tmp_path, cache, num_kills, overrides):
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    status, errors = finish(start(alone, *overrides, cache=cache))
    assert status == 0, errors

    rng = random.Random(num_kills)
    for _ in range(num_kills):
        process = start(killed, *overrides, cache=cache)
        kill_sometime(process, killed / "metrics.jsonl", rng)
        assert process.returncode == -9, "the run was done before it could be killed"
    # Some were killed before they had begun; the others must have begun, and gone on.
    assert len(list(attempts(killed))) > num_kills / 3
    assert not (killed / "report.html").exists()

    status, errors = finish(start(killed, *overrides, cache=cache))
    assert status == 0, errors
    assert "from a checkpoint" in errors
    assert results(killed) == results(alone)
    assert json.loads((killed / "metadata.json").read_text())["status"] == "DONE"

    status, errors = finish(start(killed, *overrides, cache=cache))
    assert (status, errors) == (0, f"Done already: {killed / 'report.html'}\n")
    shutil.rmtree(killed)
