"""Sweeps of several jobs, each a run of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import capacity, compare, pendulum, xor
from tests.experiments.conftest import QUIET, run_main
from tests.experiments.test_single import CASES, ONE_NETWORK

ROOT = Path(__file__).resolve().parents[2]
JOBS = ("num_seeds=1", "num_steps=1", *ONE_NETWORK, "seed=0,1")


def sweeping(folder: Path) -> dict[str, tuple[str, ...]]:
    """What makes `run_main` a sweep in this folder."""
    return {"flags": ("--multirun", f"hydra.sweep.dir={folder}")}


def metadata(folder: Path) -> list[dict]:
    paths = sorted(folder.glob("[0-9]/metadata.json"))
    return [json.loads(path.read_text()) for path in paths]


def test_a_job_that_fails_loses_no_other_and_is_on_record(tmp_path, capsys):
    """One iteration cannot reach the tolerance, 500 can; the failing job comes first."""
    jobs = ("solver=picard", "solver.max_steps=1,500", "solver.tolerance=1e-12")
    one = ("num_seeds=1", "num_steps=1", "~networks.semi", "~networks.feedforward")
    with pytest.raises(RuntimeError, match="the solver reached no equilibrium at all"):
        run_main(xor.main, tmp_path, *one, *jobs, **sweeping(tmp_path))
    first, second = metadata(tmp_path)
    assert (first["status"], second["status"]) == ("FAILED", "DONE")
    assert "Traceback" in first["error"]
    assert "the solver reached no equilibrium at all" in first["error"]
    assert "solver.max_steps=500" in second["command"]
    assert "solver.max_steps=1," not in second["command"]
    capsys.readouterr()
    assert compare.main([str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    assert "0 is FAILED" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("main", "name", "sweep"),
    [
        (pendulum.main, "pendulum", "model=two_layer,two_layer_certified"),
        pytest.param(
            *(capacity.main, "capacity", "optimizer=adam,adam_by_group"), marks=pytest.mark.slow
        ),
    ],
)
def test_a_group_is_swept(tmp_path, main, name, sweep):
    overrides = (*CASES[name][1], "model.hidden=[1]")
    overrides = tuple(o for o in overrides if not o.startswith("hidden_sizes"))
    if name == "capacity":
        overrides += ("hidden_sizes=[1]",)
    run_main(main, tmp_path, *overrides, sweep, **sweeping(tmp_path))
    assert [found["status"] for found in metadata(tmp_path)] == ["DONE", "DONE"]
    options = sweep.split("=")[1].split(",")
    for found, option in zip(metadata(tmp_path), options, strict=True):
        assert f"{sweep.split('=')[0]}={option}" in found["command"].split()


@pytest.mark.slow
@pytest.mark.parametrize("launch", ["processes", "cluster_local"])
def test_jobs_in_processes(tmp_path, launch):
    arguments = ("--multirun", f"+launch={launch}", f"hydra.sweep.dir={tmp_path}", *JOBS, *QUIET)
    subprocess.run(
        [sys.executable, "-m", "experiments.xor", *arguments],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        check=True,
        timeout=240,
    )
    assert [found["status"] for found in metadata(tmp_path)] == ["DONE", "DONE"]
    assert all(f"launch={launch}" not in found["command"] for found in metadata(tmp_path))
