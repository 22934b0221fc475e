"""A cell of a whole batch is `vmap` of the cell of one sample, and is a Python loop."""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import irnn_jax as irnn
from tests.problems import (
    CHEAP,
    GRADIENTS,
    SOLVERS,
    central_differences,
    oscillator,
    relative_error,
)

BATCH = 3
EPS = float(np.finfo(float).eps)

# --- cells --------------------------------------------------------------------------------------


class Cell(NamedTuple):
    """A cell of one sample and one of a batch, and what they are given; y0 of one sample."""

    one: Callable[..., Any]
    batched: Callable[..., Any]
    params: Any
    x: Any
    y0: Any


def _tanh() -> Cell:
    rng = np.random.default_rng(0)
    params = {"W": rng.normal(size=(4, 4)) / 5, "Q": rng.normal(size=(4, 2)), "b": np.full(4, 0.3)}

    def one(p, y, x):
        return jnp.tanh(p["W"] @ y + p["Q"] @ x + p["b"])

    def batched(p, y, x):
        return jnp.tanh(y @ p["W"].T + x @ p["Q"].T + p["b"])

    return Cell(one, batched, params, rng.normal(size=(BATCH, 2)), np.zeros(4))


def _convolutional(channels_last: bool) -> Cell:
    rng = np.random.default_rng(1)
    # 9 products of 2 channels with weights of 0.1 and a slope of one.
    kernel, bias = rng.normal(size=(3, 3, 2, 2)) / 10, rng.normal(size=2) / 3
    order = ("NHWC", "HWIO", "NHWC") if channels_last else ("NCHW", "HWIO", "NCHW")
    shape = (4, 5, 2) if channels_last else (2, 4, 5)

    def batched(p, y, x):
        kernel, bias = p
        rows = jax.lax.conv_general_dilated(y, kernel, (1, 1), "SAME", dimension_numbers=order)
        bias = bias if channels_last else bias[:, None, None]
        return jnp.tanh(rows + x + bias)

    def one(p, y, x):
        return batched(p, y[None], x[None])[0]

    x = rng.normal(size=(BATCH, *shape))
    return Cell(one, batched, (kernel, bias), x, np.zeros(shape))


def _pytree() -> Cell:
    """A sheet and a line that see each other, of a dict of samples."""
    rng = np.random.default_rng(2)
    params = {"lateral": rng.normal(size=(2, 2)) / 4, "gain": rng.normal(size=3)}
    x = {"drive": rng.normal(size=(BATCH, 2)) / 2, "scale": rng.uniform(0.5, 1, size=BATCH)}

    def one(p, y, x):
        sheet, line = y["sheet"], y["line"]
        return {
            "sheet": jnp.tanh(p["lateral"] @ sheet + x["drive"][:, None] * line),
            "line": jax.nn.sigmoid(x["scale"] * sheet.sum(axis=0) * p["gain"]),
        }

    batched = jax.vmap(one, in_axes=(None, 0, 0))
    return Cell(one, batched, params, x, {"sheet": np.zeros((2, 3)), "line": np.zeros(3)})


CELLS = {
    "tanh": _tanh(),
    "channels_last": _convolutional(True),
    "channels_first": _convolutional(False),
    "pytree": _pytree(),
}


def _many(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.zeros((BATCH, *leaf.shape)), tree)


def _solve(name: str, way: str, params: Any, x: Any, **options: Any) -> irnn.Equilibrium:
    """The equilibria of all samples, and all that is known of them."""
    cell = CELLS[name]
    if way == "batched":
        return irnn.fixed_point(cell.batched, params, x, _many(cell.y0), batched=True, **options)
    one = functools.partial(irnn.fixed_point, cell.one, params, y0=cell.y0, **options)
    return jax.vmap(lambda x: one(x=x))(x)


def _loss(state: Any) -> Any:
    """That weights every leaf differently, of each sample."""
    leaves = jax.tree.leaves(state)
    return sum(((leaf - 0.3) ** 2 * (i + 1)).sum() for i, leaf in enumerate(leaves))


@functools.cache
def _gradient(name: str, way: str, solver: str, gradient: str) -> tuple[Any, irnn.Equilibrium]:
    options: dict[str, Any] = {"gradient": GRADIENTS[gradient]}
    if solver != "default":
        options["solver"] = SOLVERS[solver].solver

    def loss(params, x):
        result = _solve(name, "batched" if way == "batched" else "vmap", params, x, **options)
        return _loss(result.activities), result

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    cell = CELLS[name]
    if way != "loop":
        return compiled(cell.params, cell.x)
    each = [
        compiled(cell.params, jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], cell.x))
        for i in range(BATCH)
    ]
    over_params = jax.tree.map(lambda *leaves: sum(leaves), *(d[0] for d, _ in each))
    rest = [(d[1], result) for d, result in each]
    over_x, result = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *rest)
    return (over_params, over_x), result


def _is_fast(name: str, solver: str, gradient: str) -> bool:
    if name == "tanh":
        return gradient == "exact" or solver == "picard"
    return (solver, gradient) == ("default", "exact")


COMBINATIONS = [
    pytest.param(*names, marks=() if _is_fast(*names) else pytest.mark.slow)
    for names in itertools.product(CELLS, ["default", *SOLVERS], GRADIENTS)
]


@pytest.mark.parametrize(("name", "solver", "gradient"), COMBINATIONS)
def test_a_batch_is_vmap_and_a_loop(name, solver, gradient):
    derivatives, batched = _gradient(name, "batched", solver, gradient)
    assert np.all(batched.converged)
    for leaf in (batched.converged, batched.residual, batched.num_steps, batched.status):
        assert leaf.shape == (BATCH,)
    ways = ("vmap", "loop") if name == "tanh" else ("vmap",)
    for way in ways:
        expected, other = _gradient(name, way, solver, gradient)
        assert relative_error(batched.activities, other.activities) < 1e-10
        np.testing.assert_allclose(batched.residual, other.residual, rtol=0, atol=1e-10)
        np.testing.assert_array_equal(batched.status, other.status)
        assert relative_error(derivatives, expected) < 1e-10


@pytest.mark.parametrize("name", CELLS)
def test_the_gradient_is_the_central_difference(name):
    """Of the cell itself, iterated in a loop that knows nothing of equilibria."""
    cell = CELLS[name]

    @jax.jit
    def reference(arguments):
        params, x = arguments

        def step(y, _):
            return jax.vmap(cell.one, (None, 0, 0))(params, y, x), None

        return _loss(jax.lax.scan(step, _many(cell.y0), length=400)[0])

    expected = central_differences(reference, (cell.params, cell.x))
    actual, _ = _gradient(name, "batched", "default", "exact")
    assert relative_error(actual, expected) < 1e-6


# --- neighbours ---------------------------------------------------------------------------------

# Two neurons that never rest at x = 0, and are driven to rest from outside.
RESTLESS = oscillator().layers[0]
DRIVES = jnp.array([[40.0, 40.0], [40.0, -40.0], [-40.0, 30.0], [30.0, -40.0]])
SICK = {"nan": jnp.nan, "inf": jnp.inf, "minus_inf": -jnp.inf, "limit_cycle": 0.0}


def _restless(weights: Any, y: Any, x: Any) -> Any:
    W, gain = weights
    return jax.nn.sigmoid(gain * (y @ W.T + RESTLESS.bias) + x)


@functools.partial(jax.jit, static_argnums=3)
def _of_neighbours(weights: Any, x: Any, keep: Any, solver: Any) -> Any:
    def loss(weights, x):
        y0 = jnp.zeros_like(x)
        result = irnn.fixed_point(_restless, weights, x, y0, batched=True, solver=solver)
        return jnp.sum(jnp.where(keep[:, None], result.activities - 0.3, 0) ** 2), result

    return jax.grad(loss, argnums=(0, 1), has_aux=True)(weights, x)


@pytest.mark.parametrize(
    "solver",
    [
        irnn.Auto(),
        irnn.PseudoTransient(max_steps=50),
        irnn.Picard(max_steps=60),
        pytest.param(irnn.Anderson(max_steps=60), marks=pytest.mark.slow),
        pytest.param(irnn.NewtonKrylov(max_steps=30), marks=pytest.mark.slow),
    ],
    ids=lambda solver: type(solver).__name__,
)
@pytest.mark.parametrize("kind", SICK)
def test_a_sample_that_fails_changes_nothing_for_its_neighbours(kind, solver):
    # Weak enough that every solver reaches the others, and strong enough that theirs count.
    weights = (RESTLESS.lateral, jnp.asarray(1.0))
    # Infinity is where a sigmoid saturates, and an equilibrium: there only NaN is none.
    bad = jnp.full(2, SICK[kind]) if kind != "inf" else jnp.array([jnp.inf, -jnp.inf])
    x = DRIVES.at[1].set(bad if kind != "limit_cycle" else 0)
    others = np.arange(4) != 1
    healthy, expected = _of_neighbours(weights, DRIVES, jnp.asarray(others), solver)
    sick, found = _of_neighbours(weights, x, jnp.ones(4, bool), solver)
    np.testing.assert_array_equal(expected.converged, True)
    np.testing.assert_array_equal(found.converged[others], True)
    if kind in ("nan", "limit_cycle"):
        assert not found.converged[1]
        np.testing.assert_array_equal(sick[1][1], 0)
    assert np.all(np.isfinite(np.asarray(found.activities)[others]))
    np.testing.assert_array_equal(found.status[others], expected.status[others])
    for a, b in (
        (found.activities[others], expected.activities[others]),
        (sick[1][others], healthy[1][others]),
    ):
        np.testing.assert_allclose(a, b, rtol=64 * EPS, atol=64 * EPS)
    if not found.converged[1]:
        for a, b in zip(jax.tree.leaves(sick[0]), jax.tree.leaves(healthy[0]), strict=True):
            np.testing.assert_allclose(a, b, rtol=64 * EPS, atol=64 * EPS * np.max(np.abs(b)))
    for leaf in jax.tree.leaves(sick):
        assert np.all(np.isfinite(leaf))


def test_a_batch_of_nothing_but_failures_has_a_gradient_of_zero():
    weights = (RESTLESS.lateral, jnp.asarray(1.0))
    gradients, found = _of_neighbours(
        weights, jnp.full((4, 2), jnp.nan), jnp.ones(4, bool), irnn.Auto()
    )
    assert not np.any(found.converged)
    for leaf in jax.tree.leaves(gradients):
        np.testing.assert_array_equal(leaf, np.zeros_like(leaf))


# --- the door -----------------------------------------------------------------------------------


def _halved(params: Any, y: Any, x: Any) -> Any:
    return jnp.tanh(0.5 * y + x)


REFUSED = {
    "two batches": (
        (None, jnp.ones((3, 2)), jnp.zeros((4, 2))),
        "one batch .*y0.*4.*x.*3",
    ),
    "a scalar in x": ((None, jnp.ones(()), jnp.zeros((4, 2))), "x is a scalar"),
    "a number in x": ((None, 1.0, jnp.zeros((4, 2))), "x is a scalar"),
    "a scalar in y0": ((None, jnp.ones((4, 2)), jnp.zeros(())), "y0 is a scalar"),
    "a leaf of x": (
        (None, {"a": jnp.ones((4, 2)), "b": jnp.ones(5)}, jnp.zeros((4, 2))),
        r"one batch .*\['b'\].*5",
    ),
    "no state": ((None, jnp.ones((4, 2)), ()), "y0 has no arrays"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_batch_is_refused_in_words(name):
    arguments, words = REFUSED[name]
    with pytest.raises(ValueError, match=words):
        irnn.fixed_point(_halved, *arguments, batched=True)


def test_a_cell_that_forgets_the_batch_is_refused_in_words():
    with pytest.raises(ValueError, match=r"a state like y0, .*\[4, 2\].*\[2\]"):
        irnn.fixed_point(
            lambda p, y, x: jnp.tanh(y.sum(axis=0)), None, None, jnp.zeros((4, 2)), batched=True
        )


@pytest.mark.parametrize("batched", [True, False])
def test_throw_raises(batched):
    y0 = jnp.zeros((2, 1)) if batched else jnp.zeros(1)

    def solve(cell):
        options = {"batched": batched, "solver": CHEAP, "throw": True}
        return irnn.fixed_point(cell, None, None, y0, **options).activities

    with pytest.raises(RuntimeError, match="no equilibrium was reached"):
        jax.block_until_ready(solve(lambda p, y, x: 1 - y))
    np.testing.assert_allclose(solve(lambda p, y, x: 1 - 0.5 * y), np.full(y0.shape, 2 / 3))


@pytest.mark.parametrize("batched", [True, False])
def test_the_adjoints_report(batched):
    """W = 1 at y = 0, where 1 - tanh' is singular, beside samples where it is not."""
    x = jnp.array([[0.0], [1.0], [0.5]])

    def cell(w, y, x):
        return jnp.tanh(w * y + x)

    def loss(w, probe):
        if batched:
            y = irnn.fixed_point(cell, w, x, jnp.zeros((3, 1)), batched=True, probe=probe)
            return y.activities.sum()

        def one(x, probe):
            return irnn.fixed_point(cell, w, x, jnp.zeros(1), probe=probe).activities

        assert probe.residual.shape == (3,)
        return jax.vmap(one)(x, probe).sum()

    gradient, report = jax.jit(jax.grad(loss, argnums=(0, 1)))(1.0, irnn.adjoint_probe((3,)))
    np.testing.assert_array_equal(report.failed, [1, 0, 0])
    assert report.residual.shape == (3,)
    assert np.all(report.residual[1:] < 1e-11)
    y = np.zeros(2)
    for _ in range(200):
        y = np.tanh(y + np.array([1.0, 0.5]))
    slope = 1 - y**2
    np.testing.assert_allclose(gradient, np.sum(slope * y / (1 - slope)), rtol=1e-9)


def test_the_report_of_one_sample_has_no_axes():
    def loss(w, probe):
        cell = lambda w, y, x: jnp.tanh(w * y + x)  # noqa: E731
        return irnn.fixed_point(cell, w, 1.0, jnp.zeros(2), probe=probe).activities.sum()

    _, report = jax.grad(loss, argnums=(0, 1))(0.5, irnn.adjoint_probe())
    assert report.residual.shape == report.failed.shape == ()
    assert report.failed == 0


def test_what_a_cell_rounds_inside_is_its_own():
    """Only a state of half precision is widened, not the arithmetic of a cell that chose it."""

    def cell(params: Any, y: Any, x: Any) -> Any:
        del params
        return jnp.tanh(0.5 * y.astype(jnp.bfloat16).astype(jnp.float64) + x)

    y, x = 0.0, 1.0
    for _ in range(50):
        y = np.tanh(0.5 * float(jnp.bfloat16(y)) + x)
    found = irnn.fixed_point(cell, None, jnp.ones(2), jnp.zeros(2), solver=irnn.Picard())
    np.testing.assert_allclose(found.activities, np.full(2, y), rtol=1e-12)
