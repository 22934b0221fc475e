"""No product is left to a GPU's default for float32, which is TF32 and its three digits."""

import jax
import jax.numpy as jnp
import pytest

import irnn_jax as irnn
from irnn_jax.analysis.certificates import certify
from tests.problems import inputs, network

WIDE = (3, 40, 2)  # products of fewer neurons are sums of columns


def _single(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


def _loss(net, x, **options):
    return jnp.sum(irnn.equilibrium(net, x, **options).activities[-1])


FUNCTIONS = {
    "solver": lambda net, x: _loss(net, x, solver=irnn.PseudoTransient()),
    "exact": lambda net, x: jax.grad(_loss)(net, x),
    "semi": lambda net, x: jax.grad(_loss)(net, x, gradient=irnn.SemiGradient()),
    "inputs": lambda net, x: jax.grad(_loss, argnums=1)(net, x),
    "jacobians": lambda net, x: irnn.jacobians(net, x[0]),
    "stability": irnn.stability,
    "certify": lambda net, x: certify(net),
}


@pytest.mark.parametrize("recurrent", [True, False])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_products_are_in_full_precision(name, recurrent):
    net = _single(network(WIDE, scale=0.3, recurrent=recurrent))
    program = jax.jit(FUNCTIONS[name]).lower(net, _single(inputs(network(WIDE), batch=4)))
    products = [line for line in program.as_text().splitlines() if "dot_general" in line]
    assert products
    assert [line for line in products if "[HIGHEST, HIGHEST]" not in line] == []


def test_a_certified_network_is_made_in_full_precision():
    net = irnn.init(jax.random.key(0), WIDE, dtype=jnp.float32, parametrization=irnn.Certified())
    program = jax.jit(lambda net: net.network()).lower(net).as_text()
    assert program.count("dot_general") == program.count("precision = [HIGHEST, HIGHEST]") > 0
