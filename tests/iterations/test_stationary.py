"""The rest of the way for wide layers: the chord, its refinement, and what neither brings there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

import irnn_jax as irnn
from irnn_jax.iterations.chord import unknown_chord
from irnn_jax.iterations.hammerstein import Hammerstein, affine
from irnn_jax.iterations.refinement import iterate_refined
from irnn_jax.iterations.stationary import iterate
from irnn_jax.networks.dense_linearisation import DenseLinearisation
from tests.problems import inputs, network, relative_error


def _equation(matrix, drive):
    return Hammerstein.of(matrix, drive, jax.nn.sigmoid)


def _refined(equation, y, going, tolerance):
    chord = unknown_chord(equation.num_neurons)
    found, _ = iterate_refined(equation, y, going[None], tolerance, chord)
    return found._replace(done=found.done[0])


def _problem(n, samples, gain, *, shared=True):
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(n, n, 1 if shared else samples)) * gain / np.sqrt(n)
    return matrix, rng.normal(size=(n, samples))


def _equilibrium(matrix, drive):
    """By many plain steps in numpy, which these maps allow."""
    y = np.zeros_like(drive)
    matrix = np.broadcast_to(matrix, (*matrix.shape[:2], drive.shape[1]))
    for _ in range(300):
        y = expit(np.einsum("ijs,js->is", matrix, y) + drive)
    return y


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize(
    ("n", "samples", "gain", "shared"),
    [
        (130, 200, 1, True),
        (130, 200, 3, True),
        (130, 3, 1, True),
        (40, 5, 2, True),
        (24, 5, 1, False),
    ],
)
def test_it_ends_at_the_equilibrium(n, samples, gain, shared, dtype):
    matrix, drive = _problem(n, samples, gain, shared=shared)
    equation = _equation(jnp.asarray(matrix, dtype), jnp.asarray(drive, dtype))
    tolerance = float(jnp.finfo(dtype).eps) ** 0.75
    found = _refined(equation, equation.drive, jnp.ones(samples, bool), tolerance)
    assert np.all(found.done)
    assert found.y.dtype == dtype
    assert np.max(np.abs(found.residual)) <= tolerance
    np.testing.assert_allclose(found.y, _equilibrium(matrix, drive), rtol=0, atol=4 * tolerance)


def test_few_samples_lie_in_rows_and_come_out_as_they_went_in():
    """Next to nothing differs but the order of the sums."""
    matrix, drive = _problem(40, 33, 2)
    for samples in (32, 33):
        equation = _equation(jnp.asarray(matrix), jnp.asarray(drive[:, :samples]))
        laid_out = equation.laid_out()
        assert laid_out.in_rows == (samples == 32)
        assert (laid_out.num_neurons, laid_out.num_samples) == (40, samples)
        going = jnp.arange(samples) != 7
        found = _refined(equation, equation.drive, going, 1e-12)
        assert found.y.shape == found.residual.shape == (40, samples)
        np.testing.assert_array_equal(found.done, going)
        y = np.where(going, found.y, 0)
        expected = np.where(going, _equilibrium(matrix, drive)[:, :samples], 0)
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-11)


@pytest.mark.usefixtures("as_on_a_cpu")
def test_the_chord_contracts_where_plain_steps_crawl():
    """Half the steps that the map itself takes, to the same equilibrium."""
    matrix, drive = _problem(130, 200, 3)
    equation = _equation(jnp.asarray(matrix), jnp.asarray(drive))
    going, none = jnp.ones((1, 200), bool), jnp.zeros_like(equation.drive)
    settled, chord = iterate(
        equation, none, going, 1e-10, unknown_chord(equation.num_neurons, jnp.float64)
    )
    assert bool(chord.known)
    assert np.all(settled.done)
    y, plain, change = np.zeros_like(drive), 0, 1.0
    while change > 1e-10:
        before, y = y, expit(matrix[..., 0] @ y + drive)
        plain, change = plain + 1, np.max(np.abs(y - before))
    assert 2 * np.median(settled.num_steps) < plain
    again, _ = iterate(equation, none, going, 1e-10, chord)
    np.testing.assert_allclose(again.value, y, rtol=0, atol=1e-9)


def test_few_samples_are_not_worth_a_factorisation():
    matrix, drive = _problem(130, 3, 1)
    equation = _equation(jnp.asarray(matrix), jnp.asarray(drive))
    start = unknown_chord(equation.num_neurons, jnp.float64)
    none = jnp.zeros_like(equation.drive)
    settled, chord = iterate(equation, none, jnp.ones((1, 3), bool), 1e-10, start)
    assert np.all(settled.done)
    assert not bool(chord.known)


@pytest.mark.usefixtures("as_on_a_cpu")
def test_a_batch_is_linearised_once():
    """For the refinement too, and for the chunk that comes next."""
    matrix, drive = _problem(130, 200, 3)
    equation = _equation(jnp.asarray(matrix), jnp.asarray(drive))
    going = jnp.ones((1, 200), bool)

    def solve(chord):
        found, chord = iterate_refined(equation, equation.drive, going, 1e-12, chord)
        again, after = iterate_refined(equation, equation.drive, going, 1e-12, chord)
        return found.done & again.done, chord, after

    done, chord, after = jax.jit(solve)(unknown_chord(equation.num_neurons))
    assert np.all(done)
    assert bool(chord.known)
    np.testing.assert_array_equal(after.response, chord.response)


@pytest.mark.parametrize("shared", [True, False])
def test_what_is_asked_of_no_sample_is_done_for_none(shared):
    matrix, drive = _problem(24, 5, 1, shared=shared)
    equation = _equation(jnp.asarray(matrix), jnp.asarray(drive))
    going = jnp.asarray([True, False, True, False, True])
    found = _refined(equation, equation.drive, going, 1e-12)
    assert found.done.tolist() == going.tolist()


def test_a_sample_that_is_not_a_number_stays_alone():
    matrix, drive = _problem(130, 200, 3)
    expected = _equilibrium(matrix, drive)
    drive[5, 7] = np.nan
    equation = _equation(jnp.asarray(matrix), jnp.asarray(drive))
    found = _refined(equation, equation.drive, jnp.ones(200, bool), 1e-12)
    others = np.arange(200) != 7
    np.testing.assert_array_equal(found.done, others)
    np.testing.assert_allclose(found.y[:, others], expected[:, others], rtol=0, atol=1e-11)


def test_what_does_not_contract_is_not_done():
    """With weights so strong that all steps go astray nothing is called an equilibrium."""
    matrix, drive = _problem(130, 200, 300)
    equation = _equation(jnp.asarray(matrix), jnp.asarray(drive))
    found = _refined(equation, equation.drive, jnp.ones(200, bool), 1e-12)
    residual = np.max(np.abs(expit(matrix[..., 0] @ np.asarray(found.y) + drive) - found.y), axis=0)
    assert not np.all(found.done)
    assert np.all(residual[np.asarray(found.done)] <= 1e-12)


# A gain of 1 is iterated; stronger weights are not, and are solved by a factorisation, by Anderson
# acceleration or alone.
@pytest.mark.parametrize(
    ("n", "samples", "gain"), [(24, 7, 1), (24, 7, 12), (120, 150, 1), (120, 300, 6)]
)
@pytest.mark.parametrize("scale", [1.0, 1e-30])
def test_the_adjoint_systems_of_wide_layers(n, samples, gain, scale):
    matrix, drive = _problem(n, samples, gain)
    rng = np.random.default_rng(1)
    slope = rng.uniform(0, 0.25, size=drive.shape)
    rhs = scale * rng.normal(size=drive.shape)
    rhs[:, 0] = 0
    system = np.eye(n) - slope.T[:, :, None] * matrix[..., 0]
    linear = DenseLinearisation(matrix=jnp.asarray(matrix), slope=jnp.asarray(slope), sizes=(n,))
    for transposed, matrices in ((True, np.swapaxes(system, 1, 2)), (False, system)):
        expected = np.linalg.solve(matrices, rhs.T[:, :, None])[..., 0].T
        found = jax.jit(lambda rhs, way=transposed: linear.solve(rhs, way))(rhs)
        error = np.max(np.abs(found - expected)) / np.max(np.abs(expected))
        assert error < 1e-9


def test_affine_is_the_tangent_equation():
    matrix, drive = _problem(24, 5, 1)
    slope, rhs = np.full_like(drive, 0.2), drive
    equation = affine(jnp.asarray(matrix), jnp.zeros((24, 5)), jnp.asarray(slope), jnp.asarray(rhs))
    found = _refined(equation, jnp.zeros((24, 5)), jnp.ones(5, bool), 1e-12)
    expected = np.linalg.solve(np.eye(24) - 0.2 * matrix[..., 0], rhs)
    np.testing.assert_allclose(found.y, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("hidden", [20, pytest.param(120, marks=pytest.mark.slow)])
def test_the_default_has_the_gradient_of_a_direct_solve(hidden):
    """Of sizes between those of elimination and of products alone, for networks side by side."""
    net = network((5, hidden, 3), scale=2 / np.sqrt(hidden))
    nets = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.7 * leaf]), net)
    x = inputs(net, 4)

    def gradient(solver):
        def loss(net):
            result = irnn.equilibrium(net, x, solver=solver)
            return jnp.sum(jnp.sin(result.activities[-1])), result.converged

        return jax.jit(jax.vmap(jax.grad(loss, has_aux=True)))(nets)

    actual, converged = gradient(irnn.Auto())
    assert np.all(converged)
    # Its own path to the equilibrium, and in the adjoint the checked residual.
    expected, converged = gradient(irnn.PseudoTransient())
    assert np.all(converged)
    assert relative_error(actual, expected) < 1e-9


@pytest.mark.parametrize(("rate", "ends"), [(0.72, True), (0.88, False)])
def test_plain_steps_go_on_while_they_will_end_in_time(rate, ends):
    """Without a chord: 40 or so steps of Y <- b + rate Y, and not the hundred of a slower one."""
    matrix = rate * jnp.eye(40)[:, :, None]
    drive = jnp.asarray(np.random.default_rng(0).normal(size=(40, 3)))
    equation = affine(matrix, drive, jnp.ones_like(drive), jnp.zeros_like(drive))
    chord = unknown_chord(equation.num_neurons, jnp.float64)
    settled, _ = iterate(equation, jnp.zeros_like(drive), jnp.ones((1, 3), bool), 3e-6, chord)
    assert np.all(settled.done == ends)
    if ends:
        np.testing.assert_allclose(settled.value, drive / (1 - rate), rtol=0, atol=3e-5)
    else:
        assert np.max(settled.num_steps) <= 6
