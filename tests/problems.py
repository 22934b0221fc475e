"""Networks with known answers, tables of strategies, and arithmetic that shares no code with JAX.

Everything that a test compares with comes from here, from `oracle.py` or from its own lines: closed
forms, and a plain numpy network with central differences.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.special import expit

import irnn_jax as irnn

Array = np.ndarray
Activation = Callable[[Array], Array]

# --- strategies ---------------------------------------------------------------------------------


class Promise(NamedTuple):
    """A solver, and how far its activities may be from the equilibrium of the NETWORKS below."""

    solver: Any
    error: float


# A residual r leaves an error of r/rate; the NETWORKS have rates of 0.48 and more, and the default
# tolerance is eps^(3/4) = 1.8e-12.
STOPS_AT_TOLERANCE = 4e-12
SOLVERS = {
    # Newton squares the error: what is left is the rounding of a few operations, over the rate.
    "pseudo_transient": Promise(irnn.PseudoTransient(), 1e-13),
    "mixed_precision": Promise(irnn.MixedPrecision(), 1e-13),
    "newton_krylov": Promise(irnn.NewtonKrylov(max_steps=20), STOPS_AT_TOLERANCE),
    "exponential": Promise(irnn.Exponential(max_steps=30), STOPS_AT_TOLERANCE),
    "anderson": Promise(irnn.Anderson(max_steps=60), STOPS_AT_TOLERANCE),
    "flow": Promise(irnn.Flow(), STOPS_AT_TOLERANCE),
    "picard": Promise(irnn.Picard(), STOPS_AT_TOLERANCE),
    "euler": Promise(irnn.Euler(step_size=0.5), STOPS_AT_TOLERANCE),
    # |1 - z + z^2/2 - z^3/6 + z^4/24| <= 0.62 for z in [0.48, 1.2]: 0.62^60 = 3e-13.
    "runge_kutta": Promise(irnn.RungeKutta4(num_steps=60), STOPS_AT_TOLERANCE),
}


# For tests of other things than solvers: it compiles in half the time of the default one.
CHEAP = irnn.Picard()

# Differences of the NETWORKS are good to 2e-10 (see `central_differences`).
DIFFERENCES = 1e-9
# The derivative of an iterate lags behind it: k rho^(k-1) where the iterate has rho^k.
UNROLLED = 1e-8

GRADIENTS = {
    "exact": irnn.Exact(),
    "semi": irnn.SemiGradient(),
    # Spectral radius of D A at most 0.52 on the NETWORKS: 0.52^80 = 2e-23.
    "neumann": irnn.Neumann(num_terms=80),
    "unrolled": irnn.Unrolled(),
}

# --- networks -----------------------------------------------------------------------------------

SIZES = {"one_layer": (2, 2), "two_layers": (2, 2, 1), "three_layers": (2, 1, 2, 1)}


def network(
    sizes: tuple[int, ...], *, scale: float = 1.5, seed: int = 7, recurrent: bool = True
) -> irnn.Network:
    """Normal weights of standard deviation `scale`, recurrent ones included."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> Any:
        return jax.numpy.asarray(scale * rng.normal(size=shape))

    layers = tuple(
        irnn.Layer(
            feedforward=normal(size, below),
            lateral=normal(size, size) if recurrent else None,
            bias=normal(size),
        )
        for below, size in itertools.pairwise(sizes)
    )
    pairs = itertools.pairwise(sizes[1:]) if recurrent else ()
    return irnn.Network(layers=layers, feedback=tuple(normal(*pair) for pair in pairs))


def partly_recurrent() -> irnn.Network:
    """Three layers: the first without lateral weights, the second without feedback into it."""
    net = network(SIZES["three_layers"])
    first, *rest = net.layers
    return irnn.Network(
        layers=(first._replace(lateral=None), *rest), feedback=(net.feedback[0], None)
    )


NETWORKS = {name: network(sizes) for name, sizes in SIZES.items()}
NETWORKS["partly_recurrent"] = partly_recurrent()


def inputs(net: irnn.Network, batch: int = 3, seed: int = 7) -> Any:
    return jax.numpy.asarray(np.random.default_rng(seed).normal(size=(batch, net.sizes[0])))


def targets(net: irnn.Network, batch: int = 3, seed: int = 8) -> Any:
    return jax.numpy.asarray(np.random.default_rng(seed).uniform(size=(batch, net.sizes[-1])))


def oscillator() -> irnn.Network:
    """Two neurons that never rest: an excitor and an inhibitor, with a limit cycle.

    Symmetric about the equilibrium Y = (1/2, 1/2), where D A has the eigenvalues 2.5 +- 5i.
    """
    W = np.array([[10.0, -20.0], [20.0, 10.0]])
    return irnn.Network(
        layers=(
            irnn.Layer(
                feedforward=jax.numpy.eye(2),
                lateral=jax.numpy.asarray(W),
                bias=jax.numpy.asarray(-W.sum(axis=1) / 2),
            ),
        )
    )


# --- known answers ------------------------------------------------------------------------------


def logit(p: Array) -> Array:
    return np.log(p) - np.log1p(-p)


def scalar_neuron(w: float, y: float) -> tuple[irnn.Network, jax.Array, float]:
    """Y = f(W Y + Q X + T) with Q = 1, T = 0: X follows from Y. Also dY/dX = 1/(1/f' - W)."""
    one = jax.numpy.ones((1, 1))
    net = irnn.Network(
        layers=(irnn.Layer(feedforward=one, lateral=w * one, bias=jax.numpy.zeros(1)),)
    )
    x = jax.numpy.asarray(logit(np.array([y])) - w * y)
    return net, x, 1 / (1 / (y * (1 - y)) - w)


sigmoid = jax.nn.sigmoid


def some_sigmoid(x: jax.Array) -> jax.Array:
    """One whose largest slope nobody knows, so that the flow is followed whatever the weights."""
    return jax.nn.sigmoid(x)


def identity(x: Any) -> Any:
    """The linear activation: Y = (I - A)^-1 b."""
    return x


def one_pass(net: irnn.Network, x: Array, recurrent: Any, f: Activation = expit) -> tuple:
    """A feed-forward pass in which W and R see the given activities."""
    below, activities = x, []
    feedback = net.feedback or (None,) * len(net.layers)
    for i, layer in enumerate(net.layers):
        total = below @ np.asarray(layer.feedforward).T + np.asarray(layer.bias)
        if layer.lateral is not None:
            total = total + recurrent[i] @ np.asarray(layer.lateral).T
        if i + 1 < len(net.layers) and feedback[i] is not None:
            total = total + recurrent[i + 1] @ np.asarray(feedback[i]).T
        below = f(total)
        activities.append(below)
    return tuple(activities)


def reference_equilibrium(net: irnn.Network, x: Any, f: Activation = expit) -> tuple:
    """The activities of all layers, by iterating a contraction until it rests."""
    x = np.asarray(x)
    activities = tuple(np.zeros((*x.shape[:-1], size)) for size in net.sizes[1:])
    for _ in range(500):
        before, activities = activities, one_pass(net, x, activities, f)
        changes = [np.max(np.abs(a - b)) for a, b in zip(before, activities, strict=True)]
        if max(changes) < 4e-16:  # two units in the last place
            return activities
    raise AssertionError("the reference network is no contraction")


def connection_matrix(net: irnn.Network) -> Array:
    """A: from neuron (column) to neuron (row), layer after layer."""
    ends = np.cumsum(net.sizes[1:])
    at = [slice(end - size, end) for end, size in zip(ends, net.sizes[1:], strict=True)]
    A = np.zeros((ends[-1], ends[-1]))
    for i, layer in enumerate(net.layers):
        if layer.lateral is not None:
            A[at[i], at[i]] = layer.lateral
        if i > 0:
            A[at[i], at[i - 1]] = layer.feedforward
    for i, weights in enumerate(net.feedback):
        if weights is not None:
            A[at[i], at[i + 1]] = weights
    return A


def spectral_abscissa(net: irnn.Network, activities: Any) -> float:
    """Largest real part of the eigenvalues of D A, for sigmoid activities of one sample."""
    y = np.concatenate([np.asarray(a) for a in activities])
    return float(np.linalg.eigvals((y * (1 - y))[:, None] * connection_matrix(net)).real.max())


def squared_error(output: Any, target: Any) -> Any:
    return ((output - target) ** 2).mean()


def central_differences(function: Callable[[Any], Any], tree: Any, step: float = 2e-3) -> Any:
    """The gradient of a function of numpy arrays, by the five-point rule.

    Its error is step^4/30 = 5e-13 of the fifth derivative, which weights of 5 raise to 1e-10, and
    rounding of 1e-16/step, which is as large next to the smallest gradients of the NETWORKS.
    """
    leaves, treedef = jax.tree.flatten(tree)
    leaves = [np.array(leaf, float) for leaf in leaves]

    def at(leaf: Array, index: Any, shift: float) -> Any:
        kept = leaf[index]
        leaf[index] = kept + shift
        # Before the number is put back, which a compiled function may still read.
        value = np.asarray(function(jax.tree.unflatten(treedef, leaves)))
        leaf[index] = kept
        return value

    gradients = []
    for leaf in leaves:
        entries = [
            (8 * (at(leaf, i, step) - at(leaf, i, -step)))
            - (at(leaf, i, 2 * step) - at(leaf, i, -2 * step))
            for i in np.ndindex(leaf.shape)
        ]
        value_shape = entries[0].shape if entries else ()
        gradients.append(np.reshape(entries, leaf.shape + value_shape) / (12 * step))
    return jax.tree.unflatten(treedef, gradients)


def relative_error(actual: Any, expected: Any) -> float:
    """Largest deviation in units of the tensor's largest entry; the larger over a pytree."""
    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    errors = [0.0]
    for a, b in pairs:
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape, (a.shape, b.shape)
        if b.size:
            scale = np.max(np.abs(b))
            error = np.max(np.abs(a - b)) / (scale if scale > 0 else 1.0)
            errors.append(float("inf") if np.isnan(error) else float(error))
    return max(errors)


def random_gradients(net: Any, seed: int = 0) -> Any:
    """Normal numbers in place of each weight."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jax.numpy.asarray(rng.normal(size=leaf.shape)), net)


def leaves_by_group(net: irnn.Network) -> dict[str, list[Any]]:
    """The weights of each parameter group, written out by hand."""
    return {
        "feedforward": [layer.feedforward for layer in net.layers],
        "lateral": [layer.lateral for layer in net.layers if layer.lateral is not None],
        "feedback": [weights for weights in net.feedback if weights is not None],
        "bias": [layer.bias for layer in net.layers],
    }
