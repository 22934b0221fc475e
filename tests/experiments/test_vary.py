"""Numbers varied inside one run."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import pendulum, xor
from experiments.runner import vary
from experiments.runner.errors import BadConfig
from tests.experiments.conftest import run_main
from tests.experiments.test_configs import composed
from tests.experiments.test_make_train import TINY_DATA
from tests.experiments.test_reproduce import rows

GRID = "vary={optimizer.learning_rate:[0.003,0.01],penalty:[0,0.1]}"


def test_every_point_has_the_same_keys():
    config = composed("pendulum", GRID)
    assert vary.grid(config)[1] == {"optimizer.learning_rate": 0.003, "penalty": 0.1}
    keys, numbers = vary.lanes(config, 3)
    assert keys.shape == (12,)
    data = jax.random.key_data(keys).reshape(4, 3, -1)
    assert (data == data[0]).all()
    np.testing.assert_array_equal(numbers["penalty"], np.repeat([0, 0.1, 0, 0.1], 3))


def test_without_numbers_there_is_one_point():
    config = composed("pendulum")
    assert vary.grid(config) == [{}]
    keys, numbers = vary.lanes(config, 3)
    assert keys.shape == (3,)
    assert numbers == {}


def test_a_lane_is_the_run_with_its_numbers():
    """Three steps of each point against the same steps of a run of its own."""

    def trained(train, key):
        state, _ = jax.lax.scan(train.step, train.init(*key), jax.vmap(train.sample)(keys))
        return state.net

    keys = jax.random.split(jax.random.key(1), 3)
    config = composed("pendulum", *TINY_DATA, GRID)
    lanes = vary.lanes(config, 1)
    train = pendulum.make_train(config, config.networks.feedforward)
    together = jax.jit(jax.vmap(lambda *key: trained(train, key)))(*lanes)
    for i, point in enumerate(vary.grid(config)):
        own = composed("pendulum", *TINY_DATA, *(f"{k}={v}" for k, v in point.items()))
        alone = pendulum.make_train(own, own.networks.feedforward)
        expected = jax.jit(lambda key, alone=alone: trained(alone, (key,)))(lanes[0][i])
        one = jax.tree.map(lambda leaf, i=i: leaf[i], together)
        chex.assert_trees_all_close(one, expected, rtol=1e-12)


def test_a_lane_has_its_own_tolerance():
    loose, tight = 1e-2, 1e-8
    config = composed(
        "pendulum", *TINY_DATA, "solver=picard", f"vary={{solver.tolerance:[{loose},{tight}]}}"
    )
    train = pendulum.make_train(config, config.networks.exact)

    def steps(*key):
        state = train.init(*key)
        recurrent = jax.tree.map(lambda leaf: leaf + 0.5, state.net)
        state = state._replace(net=recurrent)
        return train.step(state, train.sample(jax.random.key(1)))[1].mean_steps

    first, second = jax.vmap(steps)(*vary.lanes(config, 1))
    assert 0 < first < second


def test_a_group_has_its_own_rate():
    config = composed(
        "pendulum", *TINY_DATA, "optimizer=adam_by_group", "vary={optimizer.learning_rate.bias:[0]}"
    )
    train = pendulum.make_train(config, config.networks.feedforward)
    state = train.init(jax.random.key(0), {"optimizer.learning_rate.bias": jnp.array(0.0)})
    after, _ = jax.jit(train.step)(state, train.sample(jax.random.key(1)))
    hidden, same = after.net.layers[0], state.net.layers[0]
    np.testing.assert_array_equal(hidden.bias, same.bias)
    assert (hidden.feedforward != same.feedforward).any()


@pytest.mark.parametrize(
    ("vary_", "words"),
    [
        ("{model.hidden:[1,2]}", "model.hidden cannot vary inside one run"),
        ("{optimizer.rate:[1]}", "there is no optimizer.rate in the configuration"),
        ("{optimizer.learning_rate.lateral:[1]}", "there is no optimizer.learning_rate.lateral"),
        ("{penalty:[]}", "penalty needs a list of numbers of at least 0"),
        ("{penalty:0.1}", "penalty needs a list of numbers of at least 0"),
        ("{penalty:[-1]}", r"penalty needs a list of numbers of at least 0, got \[-1\]"),
        ("{solver.tolerance:[0]}", r"solver.tolerance must be positive, got \[0\]"),
    ],
)
def test_what_cannot_vary_is_refused(tmp_path, vary_, words):
    with pytest.raises(BadConfig, match=words):
        run_main(pendulum.main, tmp_path / "run", f"vary={vary_}")
    assert not (tmp_path / "run").exists()


def test_a_grid_is_reported_point_by_point(tmp_path):
    folder = run_main(
        xor.main,
        tmp_path / "run",
        *("num_seeds=2", "num_steps=2", "~networks.exact", "~networks.semi"),
        "vary={optimizer.learning_rate:[0.003,0.01,0.1]}",
    )
    found = rows(folder)
    assert [row["optimizer.learning_rate"] for row in found] == ["0.003", "0.01", "0.1"]
    assert len({row["error"] for row in found}) == 3
    assert (folder / "figures" / "sweep.svg").stat().st_size > 1000
    assert "learning rate" in (folder / "report.html").read_text()
