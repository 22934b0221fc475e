"""The benchmark suite runs, judges rightly and draws; how fast anything is, no test says."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from benchmarks import convolution, first_call, memory, own_loop, reference, suite
from benchmarks.convolution_cases import Setting
from benchmarks.measure import Row, Session, measure
from benchmarks.peers import CONTENDERS, convolutional, ours
from benchmarks.peers.base import JaxContender, stacked
from benchmarks.regimes import CELLS, Cell, Random, Task, Trained, draw
from benchmarks.show import best_of, counts, figure, markdown
from irnn_jax.networks.dense import connections, drive

SMALL = Cell(regime="b", task=Task.GRADIENT, sizes=(100, 2, 2), weights=Random(1), runs=2, batch=3)


def _converges_too_soon(matrix, b, tolerance):
    del tolerance
    return jax.nn.sigmoid(jax.nn.sigmoid(b) @ matrix.T + b)


TOO_SOON = JaxContender(name="too soon", library="jax", activities=stacked(_converges_too_soon))
ABSENT = JaxContender(name="absent", library="no_such_library", activities=TOO_SOON.activities)
NAMES = ("irnn_jax default", "optimistix FixedPoint, LU adjoint", ours.TWIN)


def contenders(*names):
    chosen = tuple(contender for contender in CONTENDERS if contender.name in names)
    assert len(chosen) == len(names)
    return chosen


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    entered = (*contenders(*NAMES), TOO_SOON, ABSENT)
    return measure(SMALL, "float64", entered, Session(budget=0.01))


def test_answers_are_judged_against_the_direct_solve(rows):
    by_name = {row.contender: row for row in rows}
    for name in NAMES:
        row = by_name[name]
        assert row.status == ""
        assert row.seconds is not None
        assert row.seconds > 0
        assert row.error is not None
        assert row.error < 1e-8
        assert row.unconverged == 0
    wrong = by_name["too soon"]
    assert wrong.error is not None
    assert wrong.error > 1e-3
    assert not counts(wrong)
    assert wrong.unconverged == 1


def test_what_is_missing_or_fails_is_listed(rows):
    absent = rows[-1]
    assert absent.status.startswith("missing: no_such_library")
    assert absent.seconds is None

    def broken(net, x, tolerance):
        raise ArithmeticError("no luck")

    failing = dataclasses.replace(TOO_SOON, name="broken", activities=broken)
    (row,) = measure(SMALL, "float64", [failing], Session(budget=0.01))
    assert row.status == "failed: ArithmeticError: no luck"


def test_too_slow_is_projected_and_not_run():
    session = Session(pace={("irnn_jax PseudoTransient", "float64", 302): 1.0})
    wide = dataclasses.replace(SMALL, sizes=(100, 300, 2), batch=8)
    (row,) = measure(wide, "float64", contenders("irnn_jax PseudoTransient"), session)
    assert row.status.startswith("too slow: about")


def test_a_training_is_judged_by_the_gradient_of_its_first_step():
    cell = dataclasses.replace(SMALL, task=Task.TRAINING)
    entered = contenders("irnn_jax default", ours.STEP)
    for row in measure(cell, "float64", entered, Session(budget=0.01)):
        assert row.status == ""
        assert row.error is not None
        assert row.error < 1e-12
        assert row.unconverged == pytest.approx(0, abs=1e-12)


def test_reference_is_the_derivative():
    case = draw(SMALL, "float64")
    net, x, target = jax.tree.map(np.asarray, (case.net, case.x[0], case.target[0]))
    exact = reference.reference(net, x, target, np.zeros((2, 3, 4)))

    def loss(net, x, target):
        matrix, b = connections(net, jnp.float64), drive(net, x)
        step = lambda _, y: jax.nn.sigmoid(y @ matrix.T + b)  # noqa: E731
        y = jax.lax.scan(lambda y, _: (step(0, y), None), jnp.zeros_like(b), None, length=60)[0]
        return jnp.mean((y[:, -2:] - target) ** 2)

    unrolled = jax.jit(jax.vmap(jax.grad(loss)))(net, x, target)
    assert reference.gradient_error(unrolled, exact) < 1e-12


def test_reference_beyond_the_reach_of_lu(monkeypatch):
    case = draw(SMALL, "float64")
    net, x, target = jax.tree.map(np.asarray, (case.net, case.x[0], case.target[0]))
    start = np.zeros((2, 3, 4))
    direct = reference.reference(net, x, target, start)
    monkeypatch.setattr(reference, "DIRECT_UP_TO", 0)
    iterated = reference.reference(net, x, target, start)
    assert reference.gradient_error(iterated, direct) < 1e-12


def test_results_are_saved_tabled_and_drawn(rows, tmp_path):
    floors = {f"{SMALL.label}|float64": 1e-6}
    suite.save(tmp_path / "rows.json", rows, floors, "a machine")
    assert suite.load(tmp_path / "rows.json") == (rows, floors, "a machine")
    text = markdown(rows, floors, "a machine")
    for row in rows:
        assert f"| {row.contender} |" in text
    assert "not installed" in text
    figure(rows, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000
    table = suite.rich_table((SMALL.label, "float64"), rows, 1e-6)
    console = Console(width=150)
    with console.capture() as capture:
        console.print(table)
    assert "too soon" in capture.get()
    assert best_of(rows) == min(row.seconds for row in rows[:3] if counts(row) and row.seconds)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.label)
def test_every_cell_can_be_drawn(cell):
    few = dataclasses.replace(cell, batch=2)
    case = draw(few, "float32")
    assert case.x.shape[1:] == (cell.runs, 2, cell.sizes[0])
    assert case.net.sizes[0] == cell.sizes[0]
    assert case.x.dtype == jnp.float32
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(case))


def test_trained_weights_are_stiff():
    net = Trained().draw(12, (100, 5, 2))
    assert max(np.max(np.abs(leaf)) for leaf in jax.tree.leaves(net)) > 10


def test_exact_memory_does_not_depend_on_the_steps():
    peaks = memory.measured(8, (8, 64), ["Picard"], ("Exact", "Unrolled, every state"))
    few, many = peaks["Picard", "Exact"]
    assert few == many
    few, many = peaks["Picard", "Unrolled, every state"]
    assert many > 2 * few


def test_convolutional_cells_are_judged_against_plain_iteration():
    setting = Setting(channels=2, side=4, gain=0.2, batch=2, inputs=1)
    entered = [convolutional.OURS[0], convolutional.OPTIMISTIX[1]]

    def nowhere(params, x, y0, tolerance):
        return y0, None

    wrong = dataclasses.replace(entered[1], name="wrong", solve=nowhere)
    ours, peer, wrong = convolution.measure(setting, "float32", [*entered, wrong], {})
    assert ours.counts
    assert peer.counts
    assert peer.ratio == 1
    assert ours.error is not None
    assert ours.error < 1e-5
    assert ours.converged == peer.converged == 2
    assert wrong.status == "WRONG"
    assert wrong.ratio is None
    console = Console(width=150)
    with console.capture() as capture:
        console.print(convolution.table([ours, peer, wrong]))
    assert "WRONG" in capture.get()


def test_a_first_result_is_timed_in_a_process_without_flags(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_no_such_flag")
    (row,) = first_call.measured([first_call.UNIT], 1, with_cache=False)
    assert row["times"] == 1
    assert 0 < row["cpu"] < 100
    assert set(first_call.GOALS) == set(first_call.PROGRAMS)


@pytest.mark.parametrize("name", first_call.PROGRAMS)
def test_programs_of_the_first_call_can_be_traced(name, monkeypatch):
    monkeypatch.setattr(first_call, "SMALL", ((3, 2, 1), 2))
    monkeypatch.setattr(first_call, "WIDE", ((3, 2, 1), 2))
    monkeypatch.setattr(first_call, "IMAGES", (1, 2, 2))
    function, args = first_call.PROGRAMS[name]()
    leaves = jax.tree.leaves(jax.eval_shape(function, *args))
    assert len(leaves) >= 3


def test_a_users_own_loop_is_timed_beside_its_twin(tmp_path):
    own_loop.write_inputs(tmp_path / "inputs.npz")
    rows = own_loop.measured(tmp_path / "inputs.npz", num_steps=2, rounds=1, only="trained")
    rows = own_loop.with_ratios(rows)
    assert [row["network"] for row in rows] == 2 * ["recurrent", "twin"]
    for row in rows:
        assert row["converged"] == 1
        assert row["fastest"] > 0
        assert row["network"] == "recurrent" or row["ratio"] == 1
    own_loop.show(rows, 2)


@pytest.mark.gpu
def test_suite_on_a_gpu():
    assert jax.default_backend() == "gpu"
    cells = [cell for cell in CELLS if cell.gpu_only]
    cell = dataclasses.replace(cells[0], batch=64)
    (row,) = measure(cell, "float64", contenders("irnn_jax default"), Session(budget=0.1))
    assert row.accepted
