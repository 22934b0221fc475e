"""What a caller can get wrong, the exception it raises, and what its message says."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import irnn_jax as irnn
from tests.problems import NETWORKS, inputs, network, targets

NET = NETWORKS["two_layers"]
X = inputs(NET)


pytestmark = pytest.mark.usefixtures("without_runtime_types")


def _init(sizes: Any, **options: Any) -> irnn.Network:
    return irnn.init(jax.random.key(0), sizes, **options)


def _layer(n: int = 2, below: int = 2, **weights: Any) -> irnn.Layer:
    whole = irnn.Layer(feedforward=jnp.ones((n, below)), lateral=jnp.ones((n, n)), bias=jnp.ones(n))
    return whole._replace(**weights)


def _net(*layers: irnn.Layer, feedback: tuple = ()) -> irnn.Network:
    return irnn.Network(layers=layers, feedback=feedback)


def _apply(net: Any = NET, x: Any = X, **options: Any) -> Any:
    return irnn.apply(net, x, **options)


def _cell(cell: Callable, y0: Any = None, **options: Any) -> Any:
    y0 = jnp.zeros(2) if y0 is None else y0
    return irnn.fixed_point(cell, jnp.eye(2), jnp.ones(2), y0, **options)


def _good_cell(params: Any, y: Any, x: Any) -> Any:
    return jax.nn.sigmoid(params @ y + x)


def _step(loss: Any = irnn.squared_error, target: Any = None, **options: Any) -> Any:
    optimizer = irnn.adam(0.01)
    step = irnn.make_train_step(loss, optimizer, **options)
    target = targets(NET) if target is None else target
    return step(irnn.TrainState.create(NET, optimizer), (X, target))


def _traced_activation() -> Any:
    def f(slope):
        return irnn.apply(NET, X, activation=lambda x: slope * jnp.tanh(x)).sum()

    return jax.grad(f)(0.5)


class Row:
    """One mistake: what is called, and what must come of it."""

    def __init__(self, call: Callable[[], Any], exception: type[Exception], words: str):
        self.call, self.exception, self.words = call, exception, words


INIT = {
    "one_size": Row(lambda: _init((3,)), ValueError, r"sizes must be .*at least 2, got \(3,\)"),
    "no_size": Row(lambda: _init(()), ValueError, r"at least 2, got \(\)"),
    "zero_size": Row(lambda: _init((2, 0, 1)), ValueError, r"positive integers, got \(2, 0, 1\)"),
    "negative_size": Row(lambda: _init((2, -1)), ValueError, r"positive integers, got \(2, -1\)"),
    "float_size": Row(lambda: _init((2, 3.0)), ValueError, r"positive integers, got \(2, 3.0\)"),
    "bool_size": Row(lambda: _init((2, True)), ValueError, r"positive integers, got \(2, True\)"),
    "string_size": Row(lambda: _init((2, "3")), ValueError, r"positive integers, got \(2, '3'\)"),
    "int_dtype": Row(lambda: _init((2, 2), dtype=int), ValueError, "floating-point type, got int"),
    "complex_dtype": Row(
        lambda: _init((2, 2), dtype=complex), ValueError, "floating-point type, got complex"
    ),
}

INPUT = {
    "features": Row(
        lambda: _apply(x=jnp.ones((3, 5))), ValueError, "x has 5 features, but the network takes 2"
    ),
    "scalar": Row(
        lambda: _apply(x=jnp.array(0.5)), ValueError, r"x is a scalar, .* array \(\.\.\., 2\)"
    ),
    "python_scalar": Row(lambda: _apply(x=0.5), ValueError, "x is a scalar"),
    "int": Row(
        lambda: _apply(x=jnp.ones((3, 2), int)),
        ValueError,
        r"x has dtype int64.*x\.astype\(float\)",
    ),
    "bool": Row(lambda: _apply(x=jnp.ones((3, 2), bool)), ValueError, "x has dtype bool"),
    "complex": Row(lambda: _apply(x=jnp.ones((3, 2), complex)), ValueError, "x has dtype complex"),
    "jacobians_of_a_batch": Row(
        lambda: irnn.jacobians(NET, X), ValueError, r"one input \(inputs,\), got shape \(3, 2\)"
    ),
    "jacobians_features": Row(
        lambda: irnn.jacobians(NET, jnp.ones(5)), ValueError, "x has 5 features"
    ),
    "stability_features": Row(
        lambda: irnn.stability(NET, jnp.ones(5)), ValueError, "x has 5 features"
    ),
}

WEIGHTS = {
    "no_layers": Row(lambda: _apply(_net()), ValueError, "a network needs at least one layer"),
    "lateral_shape": Row(
        lambda: _apply(_net(_layer(lateral=jnp.ones((2, 3))))),
        ValueError,
        r"layers\[0\]\.lateral has shape \(2, 3\), but \(2, 2\) fits",
    ),
    "bias_shape": Row(
        lambda: _apply(_net(_layer(), _layer(feedforward=jnp.ones((3, 2))))),
        ValueError,
        r"layers\[1\]\.feedforward has shape \(3, 2\), but \(2, 2\) fits",
    ),
    "layers_that_do_not_meet": Row(
        lambda: _apply(_net(_layer(), _layer(n=2, below=3))),
        ValueError,
        r"layers\[1\]\.feedforward has shape \(2, 3\), but \(2, 2\) fits",
    ),
    "feedback_count": Row(
        lambda: _apply(_net(_layer(), feedback=(jnp.ones((2, 2)),))),
        ValueError,
        r"feedback has 1 entries, .* 1 layers takes 0",
    ),
    "feedback_shape": Row(
        lambda: _apply(_net(_layer(), _layer(n=1), feedback=(jnp.ones((1, 2)),))),
        ValueError,
        r"feedback\[0\] has shape \(1, 2\), but \(2, 1\) fits",
    ),
    "int_weights": Row(
        lambda: _apply(_net(_layer(lateral=jnp.ones((2, 2), int)))),
        ValueError,
        r"layers\[0\]\.lateral has dtype int64, but weights are floating-point",
    ),
    "scalar_bias": Row(
        lambda: _apply(_net(_layer(bias=jnp.array(1.0)))), ValueError, r"layers\[0\]\.bias"
    ),
    "vector_feedforward": Row(
        lambda: _apply(_net(_layer(feedforward=jnp.ones(2)))), ValueError, r"layers\[0\]"
    ),
}

ACTIVATION = {
    "softmax": Row(
        lambda: _apply(activation=jax.nn.softmax), ValueError, "activation softmax must be element"
    ),
    "cumsum": Row(lambda: _apply(activation=jnp.cumsum), ValueError, "must be elementwise"),
    "sum": Row(
        lambda: _apply(activation=jnp.sum),
        ValueError,
        r"elementwise, but maps shape \(5,\) to \(\)",
    ),
    "traced": Row(_traced_activation, ValueError, "closes over traced values"),
    "under_jit": Row(
        lambda: jax.jit(lambda x: _apply(x=x, activation=jax.nn.softmax))(X),
        ValueError,
        "must be elementwise",
    ),
}

STRATEGY = {
    "solver_string": Row(lambda: _apply(solver="picard"), ValueError, "solver must be one of"),
    "solver_class": Row(lambda: _apply(solver=irnn.Picard), ValueError, "solver must be one of"),
    "solver_is_gradient": Row(lambda: _apply(solver=irnn.Exact()), ValueError, "got Exact"),
    "gradient_string": Row(lambda: _apply(gradient="exact"), ValueError, "gradient must be one of"),
    "gradient_class": Row(
        lambda: _apply(gradient=irnn.Exact), ValueError, "gradient must be one of"
    ),
    "gradient_is_solver": Row(lambda: _apply(gradient=irnn.Picard()), ValueError, "got Picard"),
    "cell_solver": Row(
        lambda: _cell(_good_cell, solver="picard"), ValueError, "solver must be one of"
    ),
    "positional_solver": Row(
        lambda: irnn.apply(NET, X, irnn.Picard()),  # pyright: ignore[reportCallIssue]
        TypeError,
        "positional argument",
    ),
}

CELL = {
    "shape": Row(
        lambda: _cell(lambda p, y, x: jnp.ones(3)),
        ValueError,
        r"like y0, which is float64\[2\], but returns float64\[3\]",
    ),
    "structure": Row(
        lambda: _cell(lambda p, y, x: (y, y)), ValueError, r"like y0, .* but returns \('float64"
    ),
    "dtype": Row(
        lambda: _cell(lambda p, y, x: y.astype(jnp.float32)), ValueError, r"returns float32\[2\]"
    ),
    "int_state": Row(
        lambda: _cell(_good_cell, jnp.zeros(2, int)), ValueError, "y0 has dtype int64"
    ),
}

TRAINING = {
    "unknown_group": Row(
        lambda: irnn.adam({"weights": 0.1}), ValueError, "unknown parameter group 'weights'"
    ),
    "missing_group": Row(
        lambda: irnn.TrainState.create(
            NET, irnn.adam({"feedforward": 0.1, "bias": 0.1, "feedback": 0.1})
        ),
        ValueError,
        "no learning rate was given for the parameter group 'lateral'",
    ),
    "vector_loss": Row(
        lambda: _step(lambda output, target: (output - target) ** 2),
        ValueError,
        r"one number for a sample, got shape \(1,\)",
    ),
    "vector_loss_of_a_twin": Row(
        lambda: irnn.make_train_step(lambda output, target: output, optax.sgd(0.1))(
            irnn.TrainState.create(network((2, 3), recurrent=False), optax.sgd(0.1)),
            (X, jnp.zeros((3, 3))),
        ),
        ValueError,
        r"one number for a sample, got shape \(3,\)",
    ),
    "features": Row(
        lambda: irnn.make_train_step(irnn.squared_error, optax.sgd(0.1))(
            irnn.TrainState.create(NET, optax.sgd(0.1)), (jnp.ones((3, 5)), targets(NET))
        ),
        ValueError,
        "x has 5 features",
    ),
}

TABLES = {
    "init": INIT,
    "input": INPUT,
    "weights": WEIGHTS,
    "activation": ACTIVATION,
    "strategy": STRATEGY,
    "cell": CELL,
    "training": TRAINING,
}
ROWS = [
    pytest.param(row, id=f"{table}-{name}")
    for table, rows in TABLES.items()
    for name, row in rows.items()
]


@pytest.mark.parametrize("row", ROWS)
def test_mistakes_are_named(row):
    with pytest.raises(row.exception, match=row.words):
        row.call()


def test_float64_that_jax_would_narrow_is_refused():
    with jax.enable_x64(False):
        with pytest.raises(ValueError, match=r"float64 was asked for.*jax_enable_x64"):
            _init((2, 2), dtype=jnp.float64)
        assert _init((2, 2), dtype=jnp.float32).layers[0].bias.dtype == jnp.float32


def test_the_same_mistakes_are_caught_under_transformations():
    for transform in (jax.jit, jax.vmap, lambda f: jax.grad(lambda x: f(x).sum())):
        with pytest.raises(ValueError, match="x has 5 features, but the network takes 2"):
            transform(lambda x: irnn.apply(NET, x))(jnp.ones((3, 5)))


def test_good_calls_do_not_raise():
    # So that the table's rows fail for the reason they name.
    assert _apply().shape == (3, 1)
    assert _apply(_net(_layer(), _layer(n=1), feedback=(jnp.ones((2, 1)),))).shape == (3, 1)
    assert _cell(_good_cell, solver=irnn.Picard()).converged
    assert _step(solver=irnn.Picard())[1].applied
