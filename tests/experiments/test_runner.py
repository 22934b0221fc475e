"""Recording, progress, averages and figures by themselves."""

import io
import json
import math

import jax.numpy as jnp
import numpy as np
import pytest
from omegaconf import OmegaConf

import irnn_jax as irnn
from experiments.report import figures
from experiments.report.content import Verdict, all_of
from experiments.report.gates import GATES, gate
from experiments.report.statistics import is_less, mean_over_runs, percent
from experiments.runner.history import average
from experiments.runner.progress import Display
from experiments.runner.recording import Recording


def recording(folder):
    return Recording(folder, OmegaConf.create({"a": 1}), command="python -m experiments.xor")


def test_a_row_is_on_disk_at_once_and_strict_json(tmp_path):
    with recording(tmp_path) as record:
        record.row(epoch=1, loss=np.float64("nan"), errors=np.array([1 / 3, np.inf]))
        line = (tmp_path / "metrics.jsonl").read_text()
        assert json.loads((tmp_path / "metadata.json").read_text())["status"] == "RUNNING"
    assert json.loads(line) == {"epoch": 1, "loss": None, "errors": [0.333333333, None]}
    assert json.loads((tmp_path / "metadata.json").read_text())["status"] == "DONE"


def test_an_error_is_on_record_and_passed_on(tmp_path):
    with pytest.raises(KeyError), recording(tmp_path):
        raise KeyError("the reason")
    metadata = json.loads((tmp_path / "metadata.json").read_text())
    assert metadata["status"] == "FAILED"
    assert "the reason" in metadata["error"]


def test_an_interruption_is_no_failure(tmp_path):
    with pytest.raises(KeyboardInterrupt), recording(tmp_path):
        raise KeyboardInterrupt
    metadata = json.loads((tmp_path / "metadata.json").read_text())
    assert metadata["status"] == "INTERRUPTED"
    assert "error" not in metadata


def test_without_a_terminal_progress_is_plain_lines():
    stream = io.StringIO()
    with Display(stream) as display:
        task = display.task("pendulum exact", total=2, unit="epoch", size=200, of="steps")
        task.compiling()
        task.start()
        task.update(1, loss=0.5, converged=1.0)
        task.update(2, loss=0.25, converged=0.99999)
    compiling, last = stream.getvalue().splitlines()
    assert compiling == "pendulum exact: compiling"
    assert last.startswith("pendulum exact: epoch 2/2  ")
    assert "steps/s  loss 0.25  converged 99.99%  0 s left" in last


def test_progress_tells_what_compiling_took():
    stream = io.StringIO()
    with Display(stream) as display:
        task = display.task("pendulum exact", total=1, unit="epoch", size=200, of="steps")
        task.compiling()
        task.start(compiled=12.34)
    assert stream.getvalue().splitlines()[1] == "pendulum exact: compiled in 12.3 s"


def test_an_average_weighs_steps_by_their_converged_samples():
    metrics = irnn.Metrics(*(jnp.zeros((2, 2)) for _ in irnn.Metrics._fields))._replace(
        loss=jnp.array([[1.0, 4.0], [0.0, 0.0]]), converged=jnp.array([[1.0, 0.5], [0.0, 0.0]])
    )
    averages = average(metrics)
    np.testing.assert_allclose(averages.error, [2.0, np.nan])
    np.testing.assert_allclose(averages.converged, [0.75, 0.0])


def test_mean_over_runs():
    assert mean_over_runs([1, 2, 3, np.nan]) == (2.0, pytest.approx(1 / math.sqrt(3)))
    assert str(mean_over_runs([-0.5])) == "−0.5000"
    assert str(mean_over_runs([np.nan])) == "none"


@pytest.mark.parametrize(
    ("b", "verdict"),
    [([2, 3, 4.1], Verdict.HOLDS), ([0, 1, 2.1], Verdict.FAILS), ([0, 4, 3], Verdict.UNDECIDED)],
)
def test_an_order_is_decided_from_two_standard_errors_on(b, verdict):
    assert is_less([1, 2, 3], b)[0] is verdict


def test_a_claim_of_two_parts():
    assert all_of([Verdict.HOLDS, Verdict.HOLDS]) is Verdict.HOLDS
    assert all_of([Verdict.HOLDS, Verdict.UNDECIDED]) is Verdict.PARTLY
    assert all_of([Verdict.HOLDS, Verdict.FAILS]) is Verdict.FAILS


def test_percent_never_rounds_to_all_or_nothing():
    assert [percent(f) for f in (0.0, 1e-9, 0.5, 1 - 1e-9, 1.0)] == [
        *("0%", "0.01%", "50.00%", "99.99%", "100%")
    ]


def test_gates():
    assert len(set(GATES.values())) == 16
    assert gate(np.array([0.99, 0.01, 0.02, 0.1])) == "X1 NOR X2"


def test_figures_do_not_change_from_run_to_run(tmp_path):
    for name in "ab":
        with figures.drawing(tmp_path / name, 3, 2) as (_, axes):
            figures.band(axes, [0, 1], [0, 0], [1, 2], [2, 3], figures.look("another"))
    for suffix in (".png", ".svg"):
        first, second = ((tmp_path / name).with_suffix(suffix).read_bytes() for name in "ab")
        assert first == second
