"""One experiment alone, from its own entry point."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.errors import ConfigCompositionException

from experiments import capacity, choices, pendulum, scalar_neuron, study, xor
from tests.experiments.conftest import run_main

ROOT = Path(__file__).resolve().parents[2]
ONE_NETWORK = ("~networks.exact", "~networks.semi")  # the one that compiles fast
OTHER_READINGS = (
    *("batches_of_32", "six_batches_of_32_a_step", "times_50", "times_200", "variance_of_2"),
    *("no_guard", "paper_solver", "paper_solver_no_guard"),
)
CASES = {
    "scalar_neuron": (scalar_neuron.main, ("weights.count=3", "inputs.count=3")),
    "xor": (xor.main, ("num_seeds=2", "num_steps=2", *ONE_NETWORK)),
    "pendulum": (
        pendulum.main,
        (
            *("num_runs=2", "num_epochs=1", "steps_per_epoch=2", "num_test=3"),
            *("data.num_times=3", *ONE_NETWORK),
        ),
    ),
    "capacity": (
        capacity.main,
        (
            *("num_runs=2", "num_epochs=1", "steps_per_epoch=2", "num_test=3"),
            *("data.num_times=3", "hidden_sizes=[2,1]", "final_num_test=4", *ONE_NETWORK),
        ),
    ),
    "choices": (
        choices.main,
        (
            *("num_runs=2", "num_epochs=1", "steps_per_epoch=2", "num_test=3", "model.hidden=[1]"),
            *(f"~readings.{name}" for name in OTHER_READINGS),
            *("data.num_times=2", *ONE_NETWORK),
        ),
    ),
    "study": (
        study.main,
        (
            *("data=digits", "num_runs=2", "num_epochs=1", "steps_per_epoch=2"),
            *("model.hidden=[1]", *ONE_NETWORK),
        ),
    ),
}


@pytest.mark.parametrize(("main", "overrides"), CASES.values(), ids=CASES)
def test_it_reports_alone(tmp_path, capsys, main, overrides):
    folder = run_main(main, tmp_path / "run", *overrides)
    names = {path.name for path in folder.iterdir()}
    expected = {"config.yaml", "metadata.json", "metrics.jsonl", "summary.csv", "claims.csv"}
    expected |= {"report.html"}
    trains = {"checkpoints"} if main is not scalar_neuron.main else set()
    assert names == expected | trains | {"figures"}
    output = capsys.readouterr()
    assert f"Report: {folder / 'report.html'}" in output.out
    assert "compiling" in output.err


def test_the_same_seed_gives_the_same_files(tmp_path):
    main, overrides = CASES["xor"]
    first, second = (run_main(main, tmp_path / name, *overrides) for name in "ab")
    for file in ("metrics.jsonl", "summary.csv", "config.yaml", "figures/fig2b_fig4b.svg"):
        assert (first / file).read_bytes() == (second / file).read_bytes()


def test_no_equilibrium_at_all_is_an_error_and_on_record(tmp_path):
    hopeless = ("solver=picard", "solver.max_steps=1", "solver.tolerance=1e-15")
    overrides = ("num_seeds=1", "num_steps=1", "~networks.semi", "~networks.feedforward", *hopeless)
    with pytest.raises(RuntimeError, match="xor exact: the solver reached no equilibrium at all"):
        run_main(xor.main, tmp_path, *overrides)
    metadata = json.loads((tmp_path / "metadata.json").read_text())
    assert metadata["status"] == "FAILED"
    assert "Stopped: xor exact" in metadata["error"]


def test_more_test_samples_than_there_are(tmp_path):
    with pytest.raises(ValueError, match="num_test=9, but the data hold 2 test samples"):
        run_main(pendulum.main, tmp_path, "num_test=9", "data.num_samples=10")


def test_an_unknown_key_is_refused(tmp_path):
    with pytest.raises(ConfigCompositionException, match="Could not override 'num_stepz'"):
        run_main(xor.main, tmp_path, "num_stepz=2")


def test_it_starts_as_a_file():
    """`python experiments/xor.py`, which puts the wrong folder on Python's path."""
    shown = subprocess.run(
        [sys.executable, "experiments/xor.py", "num_steps=7", "--cfg", "job"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "num_steps: 7" in shown.stdout
