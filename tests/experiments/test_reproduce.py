"""What a run of all experiments leaves behind."""

import csv
import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

FIGURES = {"scalar_neuron": "fig1", "xor": "fig2b_fig4b", "pendulum": "fig6"}


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "summary.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("name", "figure"), FIGURES.items())
def test_every_experiment_leaves_its_record(reproduced, name, figure):
    folder = reproduced / name
    assert OmegaConf.load(folder / "config.yaml").name == name
    metadata = json.loads((folder / "metadata.json").read_text())
    assert metadata["status"] == "DONE"
    assert metadata["command"].startswith("python -m experiments.reproduce ")
    assert "hydra" not in metadata["command"]
    assert all(t["compile_seconds"] > 0 for t in metadata["timings"].values())
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert lines
    assert all(json.loads(line) for line in lines)
    assert rows(folder)
    for suffix in (".png", ".svg"):
        assert (folder / "figures" / figure).with_suffix(suffix).stat().st_size > 1000


def test_the_report_holds_everything_and_fetches_nothing(reproduced):
    report = (reproduced / "report.html").read_text()
    assert report.count('src="data:image/svg+xml;base64,') == 4
    for text in ("Figure 3: exact IRN", "Figure 5: semi-gradient IRN", "Differences, run by run"):
        assert text in report
    assert report.count("<summary>Configuration</summary>") == 3
    assert "http" not in report.replace("http-equiv", "")
    assert str(reproduced) not in report


def test_eq_2_is_the_numerical_derivative(reproduced):
    unique = rows(reproduced / "scalar_neuron")[0]
    assert unique["kind"] == "W < 4"
    # Truncation of about 1e-10 times the third derivative, and rounding 1e-16 / 1e-5.
    assert float(unique["formula_minus_numerical"]) < 1e-8
    assert float(unique["formula_minus_autodiff"]) < 1e-12
    assert float(unique["converged"]) == 1


def test_recurrent_networks_solve_xor_and_the_feedforward_one_does_not(reproduced):
    exact, semi, feedforward = rows(reproduced / "xor")
    assert int(exact["solved"]) >= 3  # of 4; a seed may have lost it again
    assert int(semi["solved"]) >= 3
    assert int(feedforward["solved_ever"]) == 0
    assert float(feedforward["median_error"]) == pytest.approx(0.25, abs=0.01)


def test_the_pendulum_is_trained_and_tested(reproduced):
    summary = rows(reproduced / "pendulum")
    assert [row["network"] for row in summary] == ["feedforward", "exact"]
    # Q and T: 2 (3 + 1) + 2 (2 + 1); W and R: three times 2 by 2.
    assert [int(row["parameters"]) for row in summary] == [14, 26]
    assert all(0 < float(row["test_error"]) < 0.5 for row in summary)
    assert all(float(row["test_converged"]) == 1 for row in summary)
    lines = (reproduced / "pendulum" / "metrics.jsonl").read_text().splitlines()
    epochs = [json.loads(line) for line in lines if '"network": "exact"' in line]
    assert [row["epoch"] for row in epochs] == [0, 1, 2]
    assert len(epochs[-1]["train_error"]) == len(epochs[-1]["test_error"]) == 2


def test_runs_are_paired(reproduced):
    """Before the first step, with W = R = 0, a run's networks compute the same."""
    lines = (reproduced / "pendulum" / "metrics.jsonl").read_text().splitlines()
    feedforward, exact = [row for row in map(json.loads, lines) if row["epoch"] == 0]
    assert feedforward["test_error"] == pytest.approx(exact["test_error"], rel=1e-6)
    assert feedforward["test_error"][0] != feedforward["test_error"][1]
