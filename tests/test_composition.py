"""Everything composes with JAX's transformations, compiles once, and imports quietly."""

import dataclasses
import functools
import inspect
import os
import subprocess
import sys
import types
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import irnn_jax as irnn
from tests.problems import NETWORKS, inputs, network, relative_error, targets

NET = NETWORKS["two_layers"]
X, TARGET = inputs(NET, batch=4), targets(NET, batch=4)
# The same numbers by another program: rounding in another order.
ROUNDING = 1e-13


def _loss(net: irnn.Network, x: Any) -> Any:
    return jnp.mean((irnn.apply(net, x) - TARGET) ** 2)


@functools.cache
def _expected() -> tuple[Any, Any]:
    """The loss and its gradient, eagerly."""
    return jax.value_and_grad(_loss)(NET, X)


def _checkpointed(net: irnn.Network, x: Any) -> Any:
    return jax.value_and_grad(jax.checkpoint(_loss))(net, x)


def _scanned(net: irnn.Network, x: Any) -> Any:
    """One sample a step, the losses summed by the scan."""

    def loss(net):
        def body(total, sample):
            x, target = sample
            return total + jnp.mean((irnn.apply(net, x) - target) ** 2) / len(TARGET), None

        return jax.lax.scan(body, 0.0, (x, TARGET))[0]

    return jax.value_and_grad(loss)(net)


def _vmapped(net: irnn.Network, x: Any) -> Any:
    def loss(net):
        outputs = jax.vmap(functools.partial(irnn.apply, net))(x)
        return jnp.mean((outputs - TARGET) ** 2)

    return jax.value_and_grad(loss)(net)


def _nested_jit(net: irnn.Network, x: Any) -> Any:
    return jax.jit(jax.value_and_grad(jax.jit(_loss)))(net, x)


TRANSFORMED = {
    "jit": _nested_jit,
    "checkpoint": _checkpointed,
    "vmap": _vmapped,
    "scan": _scanned,
}


@pytest.mark.parametrize("name", TRANSFORMED)
def test_transformations_change_no_number(name):
    value, gradient = jax.jit(TRANSFORMED[name])(NET, X)
    expected_value, expected_gradient = _expected()
    np.testing.assert_allclose(value, expected_value, rtol=ROUNDING)
    assert relative_error(gradient, expected_gradient) < ROUNDING


def test_sharded_batches():
    # Explicit axes, JAX's default for a mesh, are not supported: see docs/training.md.
    mesh = jax.make_mesh((1,), ("batch",), (AxisType.Auto,), devices=jax.devices()[:1])
    x = jax.device_put(X, NamedSharding(mesh, PartitionSpec("batch")))
    net = jax.device_put(NET, NamedSharding(mesh, PartitionSpec()))

    def loss(net, x):
        result = irnn.equilibrium(net, x)
        return jnp.mean((result.activities[-1] - TARGET) ** 2), result

    (value, result), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(net, x)
    expected_value, expected_gradient = _expected()
    np.testing.assert_allclose(value, expected_value, rtol=ROUNDING)
    assert relative_error(gradient, expected_gradient) < ROUNDING
    assert result.activities[-1].sharding.is_equivalent_to(x.sharding, 2)


def test_cells_under_jit_vmap_scan_and_checkpoint():
    W = 0.5 * jnp.eye(2)

    def cell(W, y, x):
        return jax.nn.sigmoid(W @ y + x)

    def loss(W, x):
        solve = jax.checkpoint(lambda W, x: irnn.fixed_point(cell, W, x, jnp.zeros(2)).activities)
        return jnp.sum(solve(W, x) ** 2)

    x = X[:, :2]
    vmapped = jax.jit(jax.grad(lambda W: jax.vmap(loss, in_axes=(None, 0))(W, x).sum()))
    scanned = jax.jit(
        jax.grad(lambda W: jax.lax.scan(lambda total, x: (total + loss(W, x), None), 0.0, x)[0])
    )
    net = irnn.Network(layers=(irnn.Layer(feedforward=jnp.eye(2), lateral=W, bias=jnp.zeros(2)),))
    dense = jax.grad(lambda net: jnp.sum(irnn.apply(net, x) ** 2))(net).layers[0].lateral
    # Newton's steps and the adjoint are Krylov solves here, to 1.8e-12.
    assert relative_error(vmapped(W), dense) < 1e-10
    assert relative_error(scanned(W), dense) < 1e-10


def _every_entry(net: irnn.Network, x: Any, target: Any, y0: Any) -> Any:
    """All public functions that compute, on arguments of one dtype."""

    def cell(params, y, x):
        return jax.nn.sigmoid(y + x)

    optimizer = optax.sgd(0.01)  # Adam's own arithmetic promotes
    step = irnn.make_train_step(irnn.squared_error, optimizer)
    solve = functools.partial(irnn.fixed_point, cell, None, y0=y0)
    return (
        jax.value_and_grad(lambda net: irnn.apply(net, x).sum())(net),
        irnn.stability(net, x),
        irnn.jacobians(net, x[0]),
        jax.grad(lambda x: solve(x).activities.sum())(x[0]),
        step(irnn.TrainState.create(net, optimizer), (x, target)),
    )


@pytest.mark.usefixtures("strict_promotion")
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_no_dtype_is_promoted_silently(dtype):
    arguments = jax.tree.map(lambda leaf: leaf.astype(dtype), (NET, X, TARGET, jnp.zeros(2)))
    # Promotion happens when a function is traced: nothing need be compiled.
    leaves = jax.tree.leaves(jax.eval_shape(_every_entry, *arguments))
    floating = {leaf.dtype for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)}
    assert floating == {jnp.dtype(dtype)}


# --- one compilation ----------------------------------------------------------------------------


def _apply(net: irnn.Network, **options: Any) -> Any:
    """With strategies that are equal but new at every call, as a caller writes them."""
    solver = irnn.PseudoTransient(first_step=0.25)
    return irnn.apply(net, X, solver=solver, gradient=irnn.Exact(tolerance=1e-6), **options)


def test_equal_strategies_and_new_numbers_do_not_retrace():
    chex.clear_trace_counter()
    call = jax.jit(chex.assert_max_traces(_apply, n=1))
    for seed in range(3):
        call(network((2, 2, 1), seed=seed))


def test_eager_calls_compile_once():
    traces = []

    def counting(x):
        traces.append(x.shape)
        return jax.nn.sigmoid(x)

    def call(seed):
        net = network((2, 2, 1), seed=seed)
        _apply(net, activation=counting)
        jax.grad(lambda net: _apply(net, activation=counting).sum())(net)

    call(0)
    count = len(traces)
    assert count > 0
    call(1)
    assert len(traces) == count


def test_train_steps_compile_once():
    traces = []

    def loss(output, target):
        traces.append(output.shape)
        return irnn.squared_error(output, target)

    optimizer = irnn.adam(0.01)
    step = irnn.make_train_step(loss, optimizer, solver=irnn.Picard())
    state = irnn.TrainState.create(NET, optimizer)
    state, _ = step(state, (X, TARGET))
    count = len(traces)
    for _ in range(3):
        state, _ = step(state, (X, TARGET))
    assert len(traces) == count
    assert int(state.step) == 4


# --- the package --------------------------------------------------------------------------------


def _python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("x64", ["0", "1"])
def test_import_is_quiet(x64):
    code = (
        "import sys, jax, irnn_jax; "
        "print(jax.config.jax_enable_x64); "
        "print({'matplotlib', 'hydra', 'orbax', 'rich', 'pytest'} & set(sys.modules)); "
        "print('imported'); jax.devices()"
    )
    # A platform that does not exist: to start a backend raises.
    result = _python(code, JAX_ENABLE_X64=x64, JAX_PLATFORMS="nonexistent")
    assert result.stdout.splitlines() == [str(x64 == "1"), "set()", "imported"], result.stderr
    assert result.returncode != 0  # so that the test can fail: asking for devices does raise


def test_public_names_are_documented():
    assert sorted(irnn.__all__) == list(irnn.__all__)
    assert len(set(irnn.__all__)) == len(irnn.__all__)
    for name in irnn.__all__:
        public = getattr(irnn, name)
        if isinstance(public, types.UnionType):  # an alias, documented where it is used
            continue
        module = getattr(public, "__module__", public.__name__)  # `conv` is a module itself
        assert module.startswith("irnn_jax."), name
        # A NamedTuple or a dataclass writes a docstring for those who write none.
        doc = inspect.getdoc(public) or ""
        assert len(doc) > 40, name
        assert not doc.startswith(f"{name}("), name


def test_every_strategy_documents_its_fields():
    for name in irnn.__all__:
        public = getattr(irnn, name)
        if dataclasses.is_dataclass(public):
            doc = inspect.getdoc(public) or ""
            for field in dataclasses.fields(public):
                assert f"{field.name}:" in doc, (name, field.name)
