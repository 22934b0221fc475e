"""A tolerance that is given with the call: traced, each lane's own, and without a derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import irnn_jax as irnn

LOOSE, TIGHT = 1e-2, 1e-9
SOLVERS = {
    "picard": irnn.Picard(),
    "flow": irnn.Flow(),
    "anderson": irnn.Anderson(),
    "default": irnn.PseudoTransient(),
    "mixed": irnn.MixedPrecision(),
    "chunks": irnn.InChunks(width=4, first_steps=2),
}


@pytest.fixture
def net():
    net = irnn.init(jax.random.key(0), (3, 4, 2))
    return jax.tree.map(
        lambda leaf: leaf + 0.5 * jnp.cos(jnp.arange(leaf.size * 1.0)).reshape(leaf.shape), net
    )


@pytest.fixture
def x():
    return jax.random.normal(jax.random.key(1), (9, 3))


@pytest.mark.parametrize("name", SOLVERS)
def test_it_is_used_in_place_of_the_solvers(name, net, x):
    solver = SOLVERS[name]

    @jax.jit
    def solve(tolerance):
        return irnn.equilibrium(net, x, solver=solver, tolerance=tolerance)

    for tolerance in (LOOSE, TIGHT):
        result = solve(tolerance)
        np.testing.assert_array_equal(result.converged, result.residual <= tolerance)
        assert result.converged.all()
    unreachable = solve(1e-30)
    assert not unreachable.converged.all()


# Far from the end, wherever the tolerance puts it.
STOPPED = {
    "picard": irnn.Picard(max_steps=2),
    "flow": irnn.Flow(max_steps=2),
    "anderson": irnn.Anderson(max_steps=2),
    "default": irnn.PseudoTransient(max_steps=1),
    "mixed": irnn.MixedPrecision(solver=irnn.PseudoTransient(max_steps=1)),
    "chunks": irnn.InChunks(solver=irnn.PseudoTransient(max_steps=1), width=4, first_steps=1),
}


@pytest.mark.parametrize("name", STOPPED)
def test_it_judges_in_place_of_the_solvers(name, net, x):
    net = jax.tree.map(lambda leaf: 8 * leaf, net)

    @jax.jit
    def solve(tolerance):
        return irnn.equilibrium(net, x, solver=STOPPED[name], tolerance=tolerance)

    residual = solve(TIGHT).residual
    assert residual.min() > TIGHT
    assert solve(2 * residual.max()).converged.all()
    assert not solve(residual.min() / 2).converged.any()


@pytest.mark.parametrize("name", ["picard", "flow", "anderson"])
def test_a_looser_one_takes_fewer_steps_in_its_own_lane(name, net, x):
    def solve(tolerance):
        return irnn.equilibrium(net, x, solver=SOLVERS[name], tolerance=tolerance)

    lanes = jax.vmap(solve)(jnp.array([LOOSE, TIGHT]))
    assert (lanes.num_steps[0] < lanes.num_steps[1]).all()
    for lane, tolerance in enumerate((LOOSE, TIGHT)):
        alone = solve(tolerance)
        np.testing.assert_array_equal(lanes.num_steps[lane], alone.num_steps)
        np.testing.assert_allclose(lanes.activities[-1][lane], alone.activities[-1], atol=1e-14)


@pytest.mark.parametrize("gradient", [irnn.Exact(), irnn.SemiGradient()], ids=["exact", "semi"])
def test_the_gradient_is_that_of_the_solver_with_this_tolerance(gradient, net, x):
    def total(net, tolerance, solver):
        return jnp.sum(
            irnn.apply(net, x, solver=solver, gradient=gradient, tolerance=tolerance) ** 2
        )

    differentiate = jax.jit(jax.grad(total, argnums=(0, 1)), static_argnames="solver")
    traced, of_tolerance = differentiate(net, 1e-6, solver=irnn.Picard())
    own = jax.grad(total)(net, None, irnn.Picard(tolerance=1e-6))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-14), traced, own)
    assert of_tolerance == 0


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan")])
def test_a_bad_one_is_refused(bad, net, x):
    with pytest.raises(ValueError, match="tolerance must be positive"):
        irnn.equilibrium(net, x, tolerance=bad)


def test_one_number_for_all(net, x):
    with pytest.raises(ValueError, match=r"tolerance must be one number, got shape \(2,\)"):
        irnn.equilibrium(net, x, tolerance=jnp.ones(2))
