"""What is done with finished runs: compared, exported."""

import csv
import json
import shutil

import numpy as np
import pytest

from experiments import compare, export
from experiments.report import finished
from tests.experiments.test_reproduce import rows


@pytest.fixture
def two(reproduced, tmp_path):
    """A run, and one that differs in a setting; a third has not finished."""
    for name in ("a", "b", "unfinished"):
        shutil.copytree(reproduced / "pendulum", tmp_path / "runs" / name)
    for name, status in (("b", "DONE"), ("unfinished", "RUNNING")):
        path = tmp_path / "runs" / name / "metadata.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"status": status}))
    config = tmp_path / "runs" / "b" / "config.yaml"
    config.write_text(config.read_text().replace("batch_size: 6", "batch_size: 7"))
    return tmp_path / "runs"


def test_what_differs_becomes_a_column(two, tmp_path, capsys):
    assert compare.main([str(two), "--out", str(tmp_path / "out")]) == 0
    output = capsys.readouterr()
    assert f"left out: {two / 'unfinished'} is RUNNING" in output.err
    assert "| network | batch_size | runs | test error |" in output.out
    assert "exact: batch size 7 − batch size 6" in output.out
    with (tmp_path / "out" / "comparison.csv").open() as file:
        found = list(csv.DictReader(file))
    keys = [(row["network"], row["batch_size"]) for row in found]
    assert keys == [("feedforward", "6"), ("feedforward", "7"), ("exact", "6"), ("exact", "7")]
    expected = rows(two / "a")[0]["test_error"]
    assert float(found[0]["test_error"]) == pytest.approx(float(expected), rel=1e-6)
    assert (tmp_path / "out" / "comparison.svg").stat().st_size > 1000


def test_xor_is_compared_by_the_error_of_what_it_trains(reproduced):
    found = finished.results(reproduced / "xor")
    assert [result.network for result in found] == ["exact", "semi", "feedforward"]
    assert all(len(result.values) == 4 for result in found)
    assert found[2].values.mean() == pytest.approx(0.25, abs=0.01)


def test_a_damaged_run_is_left_out_in_one_line(two, tmp_path, capsys):
    metrics = two / "a" / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes().replace(b"0.1", b"0.2", 1))
    (two / "unfinished" / "metadata.json").write_text('{"status": "DO')
    assert compare.main([str(two), "--out", str(tmp_path / "out")]) == 0
    errors = capsys.readouterr().err.splitlines()
    assert f"left out: {two / 'a'} is damaged: {metrics} is damaged" in errors
    assert len(errors) == 3  # each of the two, and where the comparison is
    assert export.main([str(two / "a"), str(tmp_path / "export")]) == 2
    assert capsys.readouterr().err == f"{metrics} is damaged\n"
    assert not (tmp_path / "export").exists()


def test_what_cannot_be_read_is_one_line(two, tmp_path, capsys):
    (two / "b" / "config.yaml").write_text("a: [")
    assert compare.main([str(two), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"{two / 'b'}/config.yaml is damaged"


def test_runs_of_several_experiments_keep_their_metrics_apart(reproduced, tmp_path, capsys):
    assert compare.main([str(reproduced), "--out", str(tmp_path / "out")]) == 0
    assert "| runs | test error or error |" in capsys.readouterr().out
    with (tmp_path / "out" / "comparison.csv").open() as file:
        found = list(csv.DictReader(file))
    assert {bool(row["error"]) != bool(row["test_error"]) for row in found} == {True}


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_nothing_to_compare(tmp_path, capsys, folder):
    assert compare.main([str(tmp_path / folder), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_grid_is_split_into_its_points(tmp_path):
    (tmp_path / "config.yaml").write_text(
        "{penalty: 0, vary: {penalty: [0, 1]}, networks: {a: {}}}"
    )
    row = {
        "network": "a",
        "epoch": 1,
        "test_error": [1, 2, 3, None],
        "test_converged": [1, 1, 0, 0],
    }
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    first, second = finished.results(tmp_path)
    assert (first.settings["penalty"], second.settings["penalty"]) == (0, 1)
    np.testing.assert_array_equal(second.values, [3, np.nan])
    assert (first.converged, second.converged) == (1, 0)


def test_an_export_is_small_and_complete(reproduced, tmp_path, capsys):
    out = tmp_path / "figure6"
    assert export.main([str(reproduced / "pendulum"), str(out)]) == 0
    assert "curves.csv" in capsys.readouterr().out
    names = {path.name for path in out.iterdir()}
    assert {"fig6.svg", "summary.csv", "claims.csv", "runs.csv", "metadata.json"} <= names
    assert sum(path.stat().st_size for path in out.iterdir()) < 500_000
    with (out / "curves.csv").open() as file:
        curves = list(csv.DictReader(file))
    last = [row for row in curves if row["network"] == "exact"][-1]
    mean = float(rows(reproduced / "pendulum")[1]["test_error"])
    assert float(last["test_error"]) == pytest.approx(mean, rel=1e-5)
    with (out / "runs.csv").open() as file:
        values = [float(r["test_error"]) for r in csv.DictReader(file) if r["network"] == "exact"]
    assert np.mean(values) == pytest.approx(mean, rel=1e-5)


def test_what_is_not_finished_is_not_exported(two, tmp_path, capsys):
    assert export.main([str(two / "unfinished"), str(tmp_path / "out")]) == 2
    assert export.main([str(tmp_path), str(tmp_path / "out")]) == 2
    assert "is not finished: RUNNING" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
