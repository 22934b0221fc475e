"""A gradient that cannot be had is seen by those who ask for nothing."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import irnn_jax as irnn

# tanh(y) - y is singular at y = 0, where the flow from 0 rests.
X = jnp.array([[0.0], [1.0], [0.5]])


def _loss(w, form, **options):
    if form == "cell":
        found = irnn.fixed_point(
            lambda w, y, x: jnp.tanh(w * y + x), w, X, jnp.zeros((3, 1)), batched=True, **options
        )
        return found.activities.sum()
    layer = irnn.Layer(
        feedforward=jnp.ones((1, 1)), lateral=jnp.reshape(w, (1, 1)), bias=jnp.zeros(1)
    )
    net = irnn.Network(layers=(layer,), feedback=())
    return irnn.apply(net, X, activation=jnp.tanh, **options).sum()


@pytest.mark.parametrize("form", ["cell", "network"])
@pytest.mark.parametrize("mapped", [False, True])
def test_a_sample_left_out_is_warned_of(form, mapped):
    gradient = jax.grad(lambda w: _loss(w, form))
    weights = jnp.array([0.9, 1.0]) if mapped else jnp.array(1.0)
    gradient = jax.jit(jax.vmap(gradient) if mapped else gradient)

    def called():
        found = jax.block_until_ready(gradient(weights))
        jax.effects_barrier()
        return found

    with pytest.warns(RuntimeWarning, match=r"irnn_jax: 1 sample\(s\) left out of a gradient"):
        found = called()
    y = np.zeros(2)
    for _ in range(200):
        y = np.tanh(y + np.array([1.0, 0.5]))
    slope = 1 - y**2
    np.testing.assert_allclose(np.ravel(found)[-1], np.sum(slope * y / (1 - slope)), rtol=1e-9)


@pytest.mark.parametrize("form", ["cell", "network"])
def test_no_warning_where_all_is_well_or_where_something_else_is_asked_for(form):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jax.block_until_ready(jax.grad(_loss)(0.9, form))
        zero = jax.grad(lambda w: _loss(w, form, adjoint_failure="zero"))(1.0)
        nan = jax.grad(lambda w: _loss(w, form, adjoint_failure="nan"))(1.0)
        _, report = jax.grad(lambda w, probe: _loss(w, form, probe=probe), argnums=(0, 1))(
            1.0, irnn.adjoint_probe((3,))
        )
        jax.effects_barrier()
    assert jnp.isfinite(zero)
    assert jnp.isnan(nan)
    np.testing.assert_array_equal(report.failed, [1, 0, 0])


def test_a_cache_keeps_gradients(tmp_path):
    """JAX keeps no program that may call back, so none does where a cache is asked for."""

    def program() -> str:
        jax.clear_caches()
        return jax.jit(jax.grad(lambda w: _loss(w, "network"))).lower(1.0).as_text()

    assert "callback" in program()
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    try:
        assert "callback" not in program()
    finally:
        jax.config.update("jax_compilation_cache_dir", None)
        jax.clear_caches()


@pytest.mark.usefixtures("without_runtime_types")
def test_a_word_that_is_none_of_them_is_refused():
    with pytest.raises(ValueError, match="adjoint_failure must be 'warn', 'zero' or 'nan'"):
        _loss(1.0, "cell", adjoint_failure="ignore")
