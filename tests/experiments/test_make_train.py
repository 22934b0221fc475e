"""`make_train` and `make_sweep` are pure functions of their configuration and key."""

import chex
import jax
import jax.numpy as jnp
import pytest

from experiments import pendulum, scalar_neuron, xor
from irnn_jax.wellposed import CertifiedNetwork
from tests.experiments.test_configs import composed

TINY_DATA = ("model.hidden=[1]", "data.num_times=3", "num_test=3", "test_chunk=3")
TINY = {"xor": (), "pendulum": TINY_DATA}


def train_a_step(module, config):
    """Two runs' first step, and the evaluation that follows."""
    # The twin compiles fastest, and what it shares with the others is all that could be impure.
    train = module.make_train(config, config.networks.feedforward)

    def run(key):
        state, metrics = train.step(train.init(key), train.sample(key))
        return state, metrics, train.evaluate(state.net)

    return jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0)))


@pytest.mark.parametrize(("name", "module"), [("xor", xor), ("pendulum", pendulum)])
def test_the_same_keys_give_the_same_numbers(name, module):
    config = composed(name, *TINY[name])
    before = config.copy()
    first, second = (train_a_step(module, config) for _ in range(2))
    chex.assert_trees_all_equal(first, second)
    assert config == before
    _, metrics, _ = first
    assert metrics.loss[0] != metrics.loss[1]


def test_uneven_chunks_count_every_test_sample_once():
    results = []
    for chunk in (10, 4, 64):
        config = composed("pendulum", *TINY_DATA, "num_test=10", f"test_chunk={chunk}")
        train = pendulum.make_train(config, config.networks.feedforward)
        results.append(train.evaluate(train.init(jax.random.key(0)).net))
    chex.assert_trees_all_close(*results, rtol=1e-12)  # the order of a sum of ten


def test_errors_do_not_depend_on_the_outputs_that_stand_for_the_targets():
    """The loss is in units of the parameters' ranges: output 0.3 of [0.1, 0.9] means 0.25."""
    config = composed("pendulum", *TINY_DATA, "output_range=[0.1,0.9]")
    train = pendulum.make_train(config, config.networks.feedforward)
    net = jax.tree.map(jnp.zeros_like, train.init(jax.random.key(0)).net)  # always answers 0.5
    plain = composed("pendulum", *TINY_DATA)
    same = pendulum.make_train(plain, plain.networks.feedforward)
    chex.assert_trees_all_close(train.evaluate(net), same.evaluate(net), rtol=1e-12)


def test_the_exact_network_does_not_look_at_y2():
    config = composed("xor")
    train = xor.make_train(config, config.networks.exact)
    key = jax.random.key(0)
    x, target = train.sample(key)
    state = train.init(key)
    changed = train.step(state, (x, target.at[:, 1].set(9.0)))
    chex.assert_trees_all_equal(changed, train.step(state, (x, target)))


def test_a_parametrisation_is_one_word_and_leaves_the_twin_alone():
    config = composed("pendulum", "model=two_layer_certified", *TINY_DATA)
    key = jax.random.key(0)
    certified = pendulum.make_train(config, config.networks.exact).init(key).net
    assert isinstance(certified, CertifiedNetwork)
    twin = pendulum.make_train(config, config.networks.feedforward).init(key).net
    assert not twin.is_recurrent
    chex.assert_trees_all_equal(certified.feedforward, twin.layers[0].feedforward)


def test_a_sweep_is_pure():
    point = jax.jit(scalar_neuron.make_sweep(composed("scalar_neuron")))
    first, second = (point(jnp.array(1.0), jnp.array(0.5)) for _ in range(2))
    chex.assert_trees_all_equal(first, second)
    assert first.formula == pytest.approx(float(first.numerical), abs=1e-9)


def test_the_final_test_has_its_own_number_of_samples():
    config = composed("pendulum", *TINY_DATA, "final_num_test=10")
    train = pendulum.make_train(config, config.networks.feedforward)
    net = train.init(jax.random.key(0)).net
    assert train.final is not None
    ten = composed("pendulum", *TINY_DATA, "num_test=10", "test_chunk=10")
    expected = pendulum.make_train(ten, ten.networks.feedforward).evaluate(net)
    chex.assert_trees_all_close(train.final(net), expected, rtol=1e-12)
    assert train.evaluate(net).error != expected.error
    assert pendulum.make_train(ten, ten.networks.feedforward).final is None
