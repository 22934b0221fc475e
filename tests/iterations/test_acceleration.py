"""Anderson's acceleration of a map, by itself."""

import jax.numpy as jnp
import numpy as np
import pytest

from irnn_jax.iterations.acceleration import Acceleration
from irnn_jax.linalg.layout import NEURONS_FIRST, SAMPLES_FIRST
from irnn_jax.xla.loops import Plain
from irnn_jax.xla.max_norm import max_norm


@pytest.mark.parametrize("layout", [NEURONS_FIRST, SAMPLES_FIRST], ids=["last", "first"])
@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e-10, 1e-25])
def test_small_numbers_in_float32(scale, layout):
    rng = np.random.default_rng(0)
    matrix = jnp.asarray(rng.normal(size=(50, 50)) / 20, jnp.float32)
    rhs = jnp.asarray(rng.normal(size=(50, 9)) * scale, jnp.float32)

    def turned(states):
        return states.T if layout.neurons else states

    found = Acceleration(max_steps=60)(
        lambda w: turned(rhs + matrix @ turned(w)),
        turned(rhs),
        lambda w: 1e-5 * scale,
        layout,
        Plain(),
    )
    assert np.all(max_norm(found.velocity, axis=layout.neurons) <= 1e-5 * scale)
