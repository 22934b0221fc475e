"""Cells and networks as people write them, and what JAX's users do with any function."""

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, PartitionSpec

import irnn_jax as irnn
from tests.problems import CHEAP, network, relative_error

ONE, ZEROS = jnp.ones(2), jnp.zeros(2)
# The default tolerance over the rates of these cells.
CLOSE: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-10}


def rest(w: Any, c: Any = 1.0) -> Any:
    """Where y = tanh(w y + c) rests, in numpy."""
    y = np.zeros(np.broadcast_shapes(np.shape(w), np.shape(c)))
    for _ in range(2000):
        y = np.tanh(w * y + c)
    return y


def slope(w: Any, c: Any = 1.0) -> Any:
    """dy/dw there."""
    y = rest(w, c)
    d = 1 - y * y
    return d * y / (1 - w * d)


def curvature(w: float, c: float = 1.0) -> float:
    """d2y/dw2, by differences of `slope` that are good to 1e-10."""
    h = 1e-3
    ends = [slope(w + k * h, c) for k in (-2, -1, 1, 2)]
    return float((ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]) / (12 * h))


def solve(cell: Any, params: Any = None, x: Any = ONE, y0: Any = ZEROS, **options: Any) -> Any:
    result = irnn.fixed_point(cell, params, x, y0, **options)
    assert result.converged.shape == result.residual.shape
    return result.activities


# --- what changes between two calls -------------------------------------------------------------


class Model:
    """Its weight changes while it is used, as in training by hand."""

    def __init__(self, w: Any):
        self.w = w

    def cell(self, params: Any, y: Any, x: Any) -> Any:
        return jnp.tanh(self.w * y + x)

    def __call__(self, params: Any, y: Any, x: Any) -> Any:
        return self.cell(params, y, x)


GLOBAL = {"w": 0.5}


def reads_a_global(params: Any, y: Any, x: Any) -> Any:
    return jnp.tanh(GLOBAL["w"] * y + x)


def with_weight(w: Any, y: Any, x: Any) -> Any:
    return jnp.tanh(w * y + x)


def reads_an_array(weights: Any, params: Any, y: Any, x: Any) -> Any:
    return jnp.tanh(weights["w"] * y + x)


@pytest.mark.parametrize("of", ["bound method", "object", "attribute that is an array"])
def test_an_attribute_of_today(of):
    model = Model(0.5)
    cell = model if of == "object" else model.cell
    for w in (0.5, -0.8, 0.5):
        model.w = jnp.asarray(w) if "array" in of else w
        np.testing.assert_allclose(solve(cell), rest(np.full(2, w)), **CLOSE)


def test_a_gradient_by_an_attribute():
    model = Model(0.5)

    def loss(w):
        model.w = w
        return jnp.sum(solve(model.cell))

    for w in (0.3, -0.6):
        np.testing.assert_allclose(jax.grad(loss)(w), 2 * slope(w), **CLOSE)


def test_an_attribute_that_a_loop_of_ones_own_changes():
    """Gradient descent by hand, inside and outside of `jit`."""
    model = Model(0.0)

    def loss(w):
        model.w = w
        return jnp.sum((solve(model.cell) - 0.8) ** 2)

    gradient, compiled = jax.grad(loss), jax.jit(jax.grad(loss))
    w = 0.3
    for _ in range(5):
        expected = 4 * (rest(w) - 0.8) * slope(w)
        np.testing.assert_allclose(gradient(w), expected, **CLOSE)
        np.testing.assert_allclose(compiled(w), expected, **CLOSE)
        w = w - 0.5 * float(expected)


def test_a_global_of_today():
    for w in (0.5, -0.8):
        GLOBAL["w"] = w
        np.testing.assert_allclose(solve(reads_a_global), rest(np.full(2, w)), **CLOSE)
    GLOBAL["w"] = 0.5


def test_what_a_partial_binds_of_today():
    for w in (0.5, -0.8):
        cell = functools.partial(with_weight, jnp.asarray(w))
        np.testing.assert_allclose(
            solve(lambda p, y, x, cell=cell: cell(y, x)), rest(np.full(2, w)), **CLOSE
        )
    weights = {"w": jnp.asarray(0.5)}
    cell = functools.partial(reads_an_array, weights)
    for w in (0.5, -0.8):
        weights["w"] = jnp.asarray(w)
        np.testing.assert_allclose(solve(cell), rest(np.full(2, w)), **CLOSE)

    def loss(w):
        return jnp.sum(solve(functools.partial(reads_an_array, {"w": w})))

    for w in (0.5, -0.8):
        np.testing.assert_allclose(jax.grad(loss)(w), 2 * slope(w), **CLOSE)


def test_a_compiled_loop_has_what_was_there_when_it_was_traced():
    """`jit` is the caller's: within one trace each call reads what is there then."""
    model = Model(0.0)

    @jax.jit
    def both():
        found = []
        for w in (0.5, -0.8):
            model.w = w
            found.append(solve(model.cell))
        return jnp.stack(found)

    np.testing.assert_allclose(both()[:, 0], [rest(0.5), rest(-0.8)], **CLOSE)


# --- params, x and y0 of any kind ---------------------------------------------------------------


def test_python_numbers():
    def of_lists(params, y, x):
        return [jnp.tanh(params[0] * v + x) for v in y]

    found = solve(lambda p, y, x: jnp.tanh(p * y + x), 0.5, 1.0, 0.0)
    assert found.shape == ()
    np.testing.assert_allclose(found, rest(0.5), **CLOSE)
    np.testing.assert_allclose(solve(of_lists, [0.5], 1.0, [0.0, 0.0]), rest([0.5, 0.5]), **CLOSE)
    gradient = jax.grad(lambda p: sum(solve(of_lists, p, 1.0, [0.0, 0.0])))([0.5])
    np.testing.assert_allclose(gradient, [2 * slope(0.5)], **CLOSE)


def test_an_empty_state():
    found = irnn.fixed_point(lambda p, y, x: y, None, 1.0, jnp.zeros(0))
    assert found.activities.shape == (0,)
    assert bool(found.converged)


TABLE = jnp.array([0.5, -0.8])
BY_INDEX = np.array([slope(0.5), slope(-0.8)])


def _by_index(place: str, table: Any, index: Any) -> Any:
    """The weight is looked up by an integer, which the cell has from where it may."""
    if place == "params":
        cell, params, x = (lambda p, y, x: jnp.tanh(p[0][p[1]] * y + x)), (table, index), ONE
    elif place == "x":
        cell, params, x = (lambda p, y, x: jnp.tanh(p[x[1]] * y + x[0])), table, (ONE, index)
    else:
        cell, params, x = (lambda p, y, x: jnp.tanh(p[index] * y + x)), table, ONE
    return jnp.sum(solve(cell, params, x))


@pytest.mark.parametrize("place", ["params", "x", "closure"])
def test_integers(place):
    gradient = jax.grad(functools.partial(_by_index, place))
    np.testing.assert_allclose(gradient(TABLE, 1), [0, 2 * BY_INDEX[1]], **CLOSE)
    np.testing.assert_allclose(jax.jit(gradient)(TABLE, 1), [0, 2 * BY_INDEX[1]], **CLOSE)
    over = jax.vmap(gradient, (None, 0))(TABLE, jnp.arange(2))
    np.testing.assert_allclose(over, np.diag(2 * BY_INDEX), **CLOSE)


def _with_noise(place: str, w: Any, key: Any) -> Any:
    """The drive is drawn inside of the cell, always the same from the same key."""

    def draw(key):
        return jax.random.uniform(key, (2,))

    if place == "params":
        cell, params, x = (lambda p, y, x: jnp.tanh(p[0] * y + draw(p[1]))), (w, key), None
    elif place == "x":
        cell, params, x = (lambda p, y, x: jnp.tanh(p * y + draw(x))), w, key
    else:
        cell, params, x = (lambda p, y, x: jnp.tanh(p * y + draw(key))), w, None
    return jnp.sum(solve(cell, params, x))


@pytest.mark.parametrize(
    ("place", "make"),
    [
        ("params", jax.random.key),
        ("x", jax.random.key),
        ("closure", jax.random.key),
        ("x", jax.random.PRNGKey),
        pytest.param("params", jax.random.PRNGKey, marks=pytest.mark.slow),
        pytest.param("closure", jax.random.PRNGKey, marks=pytest.mark.slow),
    ],
)
def test_random_keys(place, make):
    gradient = jax.grad(functools.partial(_with_noise, place))
    for seed in (0, 1):
        drive = np.asarray(jax.random.uniform(make(seed), (2,)))
        np.testing.assert_allclose(gradient(0.5, make(seed)), slope(0.5, drive).sum(), **CLOSE)


def test_random_keys_of_a_batch():
    keys, cell = jax.random.split(jax.random.key(3), 4), lambda p, y, x: jnp.tanh(p * y + x)
    drives = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys)
    gradient = jax.vmap(jax.grad(functools.partial(_with_noise, "x")), (None, 0))(0.5, keys)
    np.testing.assert_allclose(gradient, slope(0.5, np.asarray(drives)).sum(axis=1), **CLOSE)

    def drawn(p, y, x):
        return cell(p, y, jax.vmap(lambda key: jax.random.uniform(key, (2,)))(x))

    found = solve(drawn, 0.5, keys, jnp.zeros((4, 2)), batched=True)
    np.testing.assert_allclose(found, rest(0.5, np.asarray(drives)), **CLOSE)


class Module(eqx.Module):
    """With a function among its leaves, which is no number."""

    w: Any
    activation: Any
    name: str

    def __call__(self, params: Any, y: Any, x: Any) -> Any:
        return self.activation(self.w * y + x)


@pytest.mark.parametrize(
    "activation",
    [jnp.tanh, jax.jit(jnp.tanh), jax.nn.tanh],
    ids=["jnp.tanh", "jitted", "jax.nn.tanh"],
)
def test_an_equinox_module(activation):
    """As parameters and as the cell itself."""
    module = Module(w=jnp.asarray(0.5), activation=activation, name="mine")

    def as_params(module, y, x):
        assert module.name == "mine"
        return module(None, y, x)

    np.testing.assert_allclose(solve(as_params, module), rest([0.5, 0.5]), **CLOSE)
    np.testing.assert_allclose(solve(module), rest([0.5, 0.5]), **CLOSE)

    def loss(module, of_params):
        found = solve(as_params, module) if of_params else solve(module)
        return jnp.sum(found)

    for of_params in (True, False):
        gradient = eqx.filter_grad(loss)(module, of_params)
        np.testing.assert_allclose(gradient.w, 2 * slope(0.5), **CLOSE)
        gradient = eqx.filter_jit(eqx.filter_grad(loss))(module, of_params)
        np.testing.assert_allclose(gradient.w, 2 * slope(0.5), **CLOSE)


def test_layers_of_equinox():
    """A layer with its own weights and biases, in a batch by `vmap`, against one by hand."""
    layer = eqx.nn.Linear(3, 3, key=jax.random.key(0), dtype=jnp.float64)
    x = jax.random.normal(jax.random.key(1), (4, 3))

    def loss(layer):
        cell = lambda p, y, x: jnp.tanh(p(y) + x)  # noqa: E731
        return jnp.sum(jax.vmap(lambda x: solve(cell, layer, x, jnp.zeros(3)))(x) ** 2)

    def by_hand(weights):
        net = irnn.Network(
            layers=(irnn.Layer(feedforward=jnp.eye(3), lateral=weights[0], bias=weights[1]),)
        )
        return jnp.sum(irnn.apply(net, x, activation=jnp.tanh) ** 2)

    gradient = eqx.filter_grad(loss)(layer)
    expected = jax.grad(by_hand)((layer.weight, layer.bias))
    assert relative_error((gradient.weight, gradient.bias), expected) < 1e-9


# --- pytrees ------------------------------------------------------------------------------------


def test_states_of_several_leaves_and_shapes():
    """Two tables and a number that see each other, as one vector, and in a batch."""
    rng = np.random.default_rng(0)
    shapes = {"a": (2, 3), "b": [(1, 1, 2), ()]}
    is_shape = lambda s: isinstance(s, tuple)  # noqa: E731
    y0 = jax.tree.map(jnp.zeros, shapes, is_leaf=is_shape)
    flat, unflatten = ravel_pytree(y0)
    W = jnp.asarray(rng.normal(size=(flat.size, flat.size)) / 4)
    x = jnp.asarray(rng.normal(size=(5, flat.size)))

    def cell(W, y, x):
        return unflatten(jnp.tanh(W @ ravel_pytree(y)[0] + x))

    def loss(W, x):
        return jnp.sum(ravel_pytree(solve(cell, W, x, y0))[0] ** 2)

    def loss_of_a_vector(W, x):
        return jnp.sum(solve(lambda W, y, x: jnp.tanh(W @ y + x), W, x, flat) ** 2)

    actual, expected = (
        jax.vmap(jax.grad(f, argnums=(0, 1)), (None, 0))(W, x) for f in (loss, loss_of_a_vector)
    )
    assert relative_error(actual, expected) < 1e-9
    y0s = jax.tree.map(lambda leaf: jnp.zeros((5, *leaf.shape)), y0)
    batched = irnn.fixed_point(jax.vmap(cell, (None, 0, 0)), W, x, y0s, batched=True)
    one_by_one = jax.vmap(lambda x: solve(cell, W, x, y0))(x)
    assert jax.tree.structure(batched.activities) == jax.tree.structure(y0)
    assert relative_error(batched.activities, one_by_one) < 1e-11


def test_leaves_of_two_precisions():
    def cell(p, y, x):
        return {"a": jnp.tanh(0.5 * y["a"] + x), "b": jnp.tanh(-0.8 * y["b"] + y["a"].sum())}

    y0 = {"a": jnp.zeros(2, jnp.float32), "b": jnp.zeros(3)}
    found = solve(cell, None, jnp.ones((), jnp.float32), y0)
    assert found["a"].dtype == jnp.float32
    assert found["b"].dtype == jnp.float64
    np.testing.assert_allclose(found["a"], rest([0.5, 0.5]), rtol=1e-5)
    np.testing.assert_allclose(found["b"], rest([-0.8] * 3, 2 * rest(0.5)), rtol=1e-5)


# --- derivative rules of a cell's own, and equilibria inside of cells ---------------------------


@jax.custom_vjp
def soft(u: Any) -> Any:
    return jnp.tanh(u)


soft.defvjp(lambda u: (jnp.tanh(u), u), lambda u, g: (g / jnp.cosh(u) ** 2,))


@jax.custom_jvp
def soft_forward(u: Any) -> Any:
    return jnp.tanh(u)


soft_forward.defjvp(lambda u, t: (jnp.tanh(u[0]), t[0] / jnp.cosh(u[0]) ** 2))

RULES = {"custom_vjp": soft, "custom_jvp": soft_forward}


@pytest.mark.parametrize("rule", RULES)
def test_a_cell_with_a_derivative_rule_of_its_own(rule):
    own = lambda p, y, x: RULES[rule](p * y + x)  # noqa: E731
    np.testing.assert_allclose(solve(own, 0.5), rest([0.5, 0.5]), **CLOSE)

    def loss(p):
        return solve(own, p).sum()

    np.testing.assert_allclose(jax.grad(loss)(0.5), 2 * slope(0.5), **CLOSE)
    second = jax.jit(jax.grad(jax.grad(loss)))(0.5)
    np.testing.assert_allclose(second, 2 * curvature(0.5), rtol=1e-7)


@pytest.mark.parametrize("rule", RULES)
def test_the_same_in_batches(rule):
    own = lambda p, y, x: RULES[rule](p * y + x)  # noqa: E731
    x = jnp.linspace(0.2, 1, 6).reshape(3, 2)

    def loss(p, batched):
        if batched:
            return solve(own, p, x, jnp.zeros((3, 2)), batched=True).sum()
        return jax.vmap(lambda x: solve(own, p, x))(x).sum()

    for batched in (True, False):
        first = jax.grad(loss)(0.5, batched)
        np.testing.assert_allclose(first, slope(0.5, np.asarray(x)).sum(), **CLOSE)
        second = jax.grad(jax.grad(loss))(0.5, batched)
        expected = sum(curvature(0.5, c) for c in np.asarray(x).ravel())
        np.testing.assert_allclose(second, expected, rtol=1e-7)


def test_a_rule_that_is_not_the_derivative_is_kept():
    """Whoever writes a rule means it: here twice the slope."""

    @jax.custom_vjp
    def doubled(u):
        return jnp.tanh(u)

    doubled.defvjp(lambda u: (jnp.tanh(u), u), lambda u, g: (2 * g / jnp.cosh(u) ** 2,))
    found = jax.grad(lambda x: solve(lambda p, y, x: doubled(0.2 * y + x), None, x).sum())(ONE)
    d = 2 * (1 - rest(0.2) ** 2)
    np.testing.assert_allclose(found, np.full(2, d / (1 - 0.2 * d)), **CLOSE)


def test_two_rules_of_the_same_values_are_told_apart():
    def gradient(factor):
        @jax.custom_vjp
        def rule(u):
            return jnp.tanh(u)

        rule.defvjp(lambda u: (jnp.tanh(u), u), lambda u, g: (factor * g / jnp.cosh(u) ** 2,))
        return jax.grad(lambda x: solve(lambda p, y, x: rule(0.2 * y + x), None, x).sum())(ONE)[0]

    for factor in (1.0, 2.0, 1.0):
        d = factor * (1 - rest(0.2) ** 2)
        np.testing.assert_allclose(gradient(factor), d / (1 - 0.2 * d), **CLOSE)


def inner(p: Any, y: Any, x: Any) -> Any:
    drive = solve(lambda q, z, u: jnp.tanh(q * z + u), 0.2, x)
    return jnp.tanh(p * y + drive)


def test_an_equilibrium_inside_a_cell():
    def loss(p):
        y = solve(inner, p)
        return y.sum(), y

    gradient, y = jax.grad(loss, has_aux=True)(0.5)
    np.testing.assert_allclose(y, rest([0.5, 0.5], rest(0.2)), **CLOSE)
    np.testing.assert_allclose(gradient, 2 * slope(0.5, rest(0.2)), **CLOSE)


def test_a_network_inside_a_cell():
    """What the inner network gets is the outer state: both derivatives go through both."""
    net = network((2, 3, 2), scale=0.7)

    def cell(net, y, x):
        return jnp.tanh(0.5 * irnn.apply(net, y, solver=CHEAP) + x)

    def loss(net):
        return jnp.sum(solve(cell, net, 0.3 * ONE) ** 2)

    def unrolled(net):
        # |dg/dy| < 0.5 slope 0.1
        step = lambda y, _: (cell(net, y, 0.3 * ONE), None)  # noqa: E731
        return jnp.sum(jax.lax.scan(step, ZEROS, length=25)[0] ** 2)

    actual, expected = jax.jit(jax.grad(loss))(net), jax.jit(jax.grad(unrolled))(net)
    assert relative_error(actual, expected) < 1e-8


# --- half precision -----------------------------------------------------------------------------

HALVES = [jnp.bfloat16, jnp.float16]


@pytest.mark.parametrize("dtype", HALVES, ids=["bfloat16", "float16"])
def test_cells_in_half_precision(dtype):
    """Solved and returned in float32, whose digits it has; so is what the cell would round."""

    def cell(p, y, x):
        return jnp.tanh(p * y + x).astype(dtype)

    p, x, y0 = jnp.asarray(0.5, dtype), jnp.ones(2, dtype), jnp.zeros(2, dtype)
    result = irnn.fixed_point(cell, p, x, y0)
    assert bool(result.converged)
    assert result.activities.dtype == jnp.float32
    np.testing.assert_allclose(result.activities, rest([0.5, 0.5]), rtol=1e-5)
    gradient = jax.grad(lambda p: solve(cell, p, x, y0).sum())(p)
    assert gradient.dtype == dtype
    np.testing.assert_allclose(float(gradient), 2 * slope(0.5), rtol=float(jnp.finfo(dtype).eps))


@pytest.mark.parametrize("hidden", [4, 40])
@pytest.mark.parametrize("dtype", HALVES, ids=["bfloat16", "float16"])
def test_networks_in_half_precision(dtype, hidden):
    net = jax.tree.map(
        lambda leaf: leaf.astype(dtype), network((3, hidden, 2), scale=1 / np.sqrt(hidden))
    )
    x = jnp.linspace(-1, 1, 12, dtype=dtype).reshape(4, 3)
    result = irnn.equilibrium(net, x)
    assert np.all(result.converged)
    assert {leaf.dtype for leaf in result.activities} == {jnp.dtype(jnp.float32)}
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), net)
    expected = irnn.equilibrium(wide, x.astype(jnp.float32))
    assert relative_error(result.activities, expected.activities) < 1e-5
    loss = lambda net, x: jnp.sum(irnn.apply(net, x))  # noqa: E731
    gradient = jax.grad(loss)(net, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype(dtype)}
    gradient = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), gradient)
    eps = float(jnp.finfo(dtype).eps)
    assert relative_error(gradient, jax.grad(loss)(wide, x.astype(jnp.float32))) < 2 * eps


# --- what is done with any function -------------------------------------------------------------

CELL_W = np.random.default_rng(4).normal(size=(3, 3)) / 3


def _cell_of_one(W: Any, y: Any, x: Any) -> Any:
    return jnp.tanh(W @ y + x)


def _cell_of_a_batch(W: Any, y: Any, x: Any) -> Any:
    return jnp.tanh(y @ W.T + x)


def _networks(W: Any, x: Any, *, hidden: int = 4) -> Any:
    """A network whose outputs depend on W (3, 3) by its first weights."""
    net = network((3, hidden, 3), scale=1 / np.sqrt(hidden))
    first, *others = net.layers
    first = first._replace(feedforward=first.feedforward @ W)
    return irnn.apply(net._replace(layers=(first, *others)), x)


def _vmapped_cells(W: Any, x: Any) -> Any:
    return jax.vmap(lambda x: solve(_cell_of_one, W, x, jnp.zeros_like(x)))(x)


def _batched_cells(W: Any, x: Any) -> Any:
    return solve(_cell_of_a_batch, W, x, jnp.zeros_like(x), batched=True)


# Of every way that a problem is solved: (W (3, 3), x (samples, 3)) -> (samples, 3).
OUTPUTS = {
    "network": _networks,
    "network_12": functools.partial(_networks, hidden=9),
    "network_32": functools.partial(_networks, hidden=29),
    "network_43": functools.partial(_networks, hidden=40),
    "network_83": functools.partial(_networks, hidden=80),
    "network_123": functools.partial(_networks, hidden=120),
    "cell": _vmapped_cells,
    "batched_cell": _batched_cells,
}
W3 = jnp.asarray(CELL_W)
X3 = jnp.linspace(-1, 1, 12).reshape(4, 3)


@functools.cache
def _expected(name: str) -> Any:
    """The outputs of four samples, and the gradient of the sum of their squares in W."""
    found = jax.jit(OUTPUTS[name])(W3, X3)
    return found, jax.jit(jax.grad(lambda W: jnp.sum(OUTPUTS[name](W, X3) ** 2)))(W3)


SHARDED = ["network", "network_43", "cell", "batched_cell"]
SPEC = PartitionSpec("batch")


@pytest.mark.parametrize("name", SHARDED)
def test_shard_map_as_it_is_by_default(name):
    """Outputs, and the gradient of weights that all devices share: JAX sums it over them."""
    count = 2 if jax.device_count() > 1 else 1
    mesh = jax.make_mesh((count,), ("batch",), (AxisType.Auto,), devices=jax.devices()[:count])
    shared = PartitionSpec()

    def sharded(W, x):
        return jax.shard_map(OUTPUTS[name], mesh=mesh, in_specs=(shared, SPEC), out_specs=SPEC)(
            W, x
        )

    def summed(W, x):
        def mean(W, x):
            return jax.lax.psum(jnp.sum(OUTPUTS[name](W, x) ** 2), "batch")

        return jax.shard_map(mean, mesh=mesh, in_specs=(shared, SPEC), out_specs=shared)(W, x)

    def inside(W, x):
        def gradient(W, x):
            W = jax.lax.pcast(W, "batch", to="varying")
            own = jax.grad(lambda W: jnp.sum(OUTPUTS[name](W, x) ** 2))(W)
            return jax.lax.psum(own, "batch")

        return jax.shard_map(gradient, mesh=mesh, in_specs=(shared, SPEC), out_specs=shared)(W, x)

    found, gradient = _expected(name)
    np.testing.assert_allclose(jax.jit(sharded)(W3, X3), found, **CLOSE)
    squares = lambda W: jnp.sum(sharded(W, X3) ** 2)  # noqa: E731
    np.testing.assert_allclose(jax.jit(jax.grad(squares))(W3), gradient, **CLOSE)
    np.testing.assert_allclose(jax.jit(jax.grad(summed))(W3, X3), gradient, **CLOSE)
    np.testing.assert_allclose(jax.jit(inside)(W3, X3), gradient, **CLOSE)


EXPORTED = ["network", "network_43", "network_123", "batched_cell", "cell"]


@pytest.mark.usefixtures("without_runtime_types")
@pytest.mark.parametrize("name", EXPORTED)
def test_export_with_a_batch_of_any_size(name):
    (rows,) = jax.export.symbolic_shape("rows")
    like = jax.ShapeDtypeStruct((rows, 3), X3.dtype)
    program = jax.export.export(jax.jit(functools.partial(OUTPUTS[name], W3)))(like)
    found, _ = _expected(name)
    np.testing.assert_allclose(program.call(X3), found, **CLOSE)
    np.testing.assert_allclose(program.call(X3[:1]), found[:1], **CLOSE)


@pytest.mark.parametrize("name", ["network", "network_43", "cell", "batched_cell"])
def test_nothing_leaks(name):
    jax.clear_caches()
    with jax.checking_leaks():
        gradient = jax.jit(jax.grad(lambda W: jnp.sum(OUTPUTS[name](W, X3) ** 2)))(W3)
    np.testing.assert_allclose(gradient, _expected(name)[1], **CLOSE)


STRICT = {
    "dtype": lambda: jax.numpy_dtype_promotion("strict"),
    "rank": lambda: jax.numpy_rank_promotion("raise"),
}


@pytest.mark.parametrize("option", STRICT)
@pytest.mark.parametrize("name", OUTPUTS)
def test_strict_promotion(name, option):
    """Forward and gradient, in float32 too. Promotion happens when a function is traced."""
    jax.clear_caches()

    def gradient(W, x):
        return jax.value_and_grad(lambda W: jnp.sum(OUTPUTS[name](W, x) ** 2))(W)

    # What the tests themselves make is of float64.
    dtypes = (jnp.float64,) if "network" in name else (jnp.float32, jnp.float64)
    with STRICT[option]():
        for dtype in dtypes:
            _, found = jax.eval_shape(gradient, W3.astype(dtype), X3.astype(dtype))
            assert found.dtype == dtype


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in ("network_32", "network_83") else ())
        for name in OUTPUTS
    ],
)
def test_empty_batches(name):
    none = X3[:0]
    assert OUTPUTS[name](W3, none).shape == (0, 3)
    gradient = jax.grad(lambda W: jnp.sum(OUTPUTS[name](W, none)))(W3)
    np.testing.assert_array_equal(gradient, np.zeros((3, 3)))
    if name.startswith("network"):
        assert OUTPUTS[name](W3, jnp.zeros((2, 0, 3))).shape == (2, 0, 3)


@pytest.mark.usefixtures("without_runtime_types")
def test_sizes_that_are_numpy_integers():
    net = irnn.init(jax.random.key(0), sizes=tuple(np.array([3, 4, 2])))  # pyright: ignore
    expected = irnn.init(jax.random.key(0), sizes=(3, 4, 2))
    assert relative_error(net, expected) == 0


@pytest.mark.parametrize("unit", [1e-1, 1e-3, 1e-6])
def test_states_in_small_units(unit):
    """The flow of s tanh(3 y/s + 0.05) from 0."""
    found = solve(lambda p, y, x: unit * jnp.tanh(3 * y / unit + 0.05), None, None, jnp.zeros(1))
    np.testing.assert_allclose(found / unit, 0.9953993, rtol=1e-6)


@pytest.mark.usefixtures("without_runtime_types")
@pytest.mark.parametrize(
    "as_dicts", [irnn.Network._asdict, lambda net: _nested(net)], ids=["dict", "nested"]
)
def test_a_network_restored_as_dicts_is_refused_in_words(as_dicts):
    net = as_dicts(network((2, 3, 1)))
    with pytest.raises(ValueError, match="dict"):
        irnn.apply(net, jnp.zeros((4, 2)))


def _nested(net: irnn.Network) -> Any:
    """As checkpoints restore it that know no classes."""
    layers = {str(i): layer._asdict() for i, layer in enumerate(net.layers)}
    return {"layers": layers, "feedback": {str(i): R for i, R in enumerate(net.feedback)}}


@pytest.mark.slow
def test_shard_map_on_two_devices():
    """The same tests, in a process that has two."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n0", __file__, "-k", "shard_map_as_it_is"],
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 0, done.stdout[-3000:]
