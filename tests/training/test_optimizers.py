"""An optimiser for each group: whose numbers it sees, and what is refused."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import irnn_jax as irnn
from tests.problems import (
    inputs,
    leaves_by_group,
    network,
    random_gradients,
    relative_error,
    targets,
)

GROUPS = ("feedforward", "lateral", "feedback", "bias")
FROZEN = optax.set_to_zero()


def frozen(**others: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """All groups as they are, but for `others`."""
    return irnn.by_group(dict.fromkeys(GROUPS, FROZEN) | others)


def updates_of(optimizer: Any, params: Any, grads: list[Any]) -> list[Any]:
    """Step by step, the parameters moving."""
    state, found = optimizer.init(params), []
    for gradient in grads:
        update, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, update)
        found.append(update)
    return found


# Weight decay asks for the parameters, the schedule for the step, the norm for all of a group.
OPTIMIZERS = {
    "feedforward": optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1)),
    "lateral": optax.contrib.muon(1e-3),
    "feedback": optax.sgd(optax.linear_schedule(0.1, 0.0, 2)),
    "bias": optax.adamw(0.01, weight_decay=0.1),
}
NETS = {
    "recurrent": network((2, 3, 2, 1), seed=1),
    "feed_forward": network((2, 3, 2, 1), recurrent=False),
    "one_layer": network((2, 3)),
}


@pytest.mark.parametrize("name", NETS)
def test_each_group_has_its_own(name):
    net = NETS[name]
    grads = [random_gradients(net, seed) for seed in range(3)]
    found = [
        leaves_by_group(update) for update in updates_of(irnn.by_group(OPTIMIZERS), net, grads)
    ]
    for group, leaves in leaves_by_group(net).items():
        expected = updates_of(OPTIMIZERS[group], leaves, [leaves_by_group(g)[group] for g in grads])
        for update, own in zip(found, expected, strict=True):
            for a, b in zip(update[group], own, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-16)


def test_muon_makes_matrices_orthogonal():
    net = NETS["recurrent"]
    ((update,),) = [
        updates_of(frozen(lateral=optax.contrib.muon(1e-3)), net, [random_gradients(net)])
    ]
    for group, leaves in leaves_by_group(update).items():
        if group != "lateral":
            assert not any(np.any(leaf) for leaf in leaves)
    for leaf in leaves_by_group(update)["lateral"]:
        # Five of its Newton-Schulz steps bring the singular values of -update/rate near 1.
        values = np.linalg.svd(np.asarray(leaf) / 1e-3, compute_uv=False)
        assert values.min() > 0.5
        assert values.max() < 1.3


def test_a_norm_is_clipped_in_its_group_alone():
    net = NETS["recurrent"]
    optimizer = irnn.by_group(
        dict.fromkeys(GROUPS, optax.sgd(1.0))
        | {"lateral": optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(1.0))}
    )
    grads = random_gradients(net)
    (update,) = updates_of(optimizer, net, [grads])
    for group, leaves in leaves_by_group(update).items():
        given = optax.tree.norm(leaves_by_group(grads)[group])
        expected = 0.5 if group == "lateral" else given
        np.testing.assert_allclose(optax.tree.norm(leaves), expected, rtol=1e-14)


def test_adam_is_a_use_of_it():
    net = NETS["recurrent"]
    rates = {"feedforward": 0.1, "lateral": 0.01, "feedback": 0.03, "bias": 0.2}
    grads = [random_gradients(net, seed) for seed in range(3)]
    same = irnn.by_group({group: optax.adam(rate) for group, rate in rates.items()})
    for a, b in zip(
        updates_of(same, net, grads), updates_of(irnn.adam(rates), net, grads), strict=True
    ):
        jax.tree.map(np.testing.assert_array_equal, a, b)


# --- networks with groups of their own -----------------------------------------------------------


class WithReadout(NamedTuple):
    """A network and a matrix after it, which can be called."""

    inner: irnn.Network
    readout: Any

    def __call__(self, x: Any) -> Any:
        return x @ self.readout

    def network(self) -> irnn.Network:
        return self.inner

    def groups(self) -> Any:
        return WithReadout(jax.tree.map(lambda _: "lateral", self.inner), "readout")


READOUT: Any = WithReadout(NETS["one_layer"], jnp.ones((3, 2)))


def test_a_network_brings_groups_of_its_own():
    optimizer = irnn.by_group({"lateral": FROZEN, "readout": optax.sgd(0.5)})
    (update,) = updates_of(optimizer, READOUT, [jax.tree.map(jnp.ones_like, READOUT)])
    np.testing.assert_array_equal(update.readout, np.full((3, 2), -0.5))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(update.inner))


def test_one_rate_of_adam_is_for_these_too():
    (update,) = updates_of(irnn.adam(0.1), READOUT, [jax.tree.map(jnp.ones_like, READOUT)])
    # Adam's update for a constant gradient is minus the rate.
    for leaf in jax.tree.leaves(update):
        np.testing.assert_allclose(leaf, -0.1, rtol=1e-6)


@pytest.mark.parametrize("parametrization", [irnn.Certified(), irnn.Symmetric()])
def test_of_a_parametrised_network(parametrization):
    net: Any = irnn.init(jax.random.key(0), (3, 4, 2), parametrization=parametrization)
    optimizer = irnn.by_group(
        {"feedforward": optax.sgd(1.0), "lateral": optax.sgd(0.1), "bias": FROZEN}
    )
    (update,) = updates_of(optimizer, net, [jax.tree.map(jnp.ones_like, net)])
    for path, leaf in jax.tree_util.tree_leaves_with_path(update):
        expected = {"feedforward": -1.0, "bias": 0.0}.get(path[0].name, -0.1)
        np.testing.assert_array_equal(leaf, np.full(leaf.shape, expected))


# --- in training ---------------------------------------------------------------------------------


def test_runs_are_trained_side_by_side():
    optimizer = irnn.by_group(OPTIMIZERS)
    step = irnn.make_train_step(irnn.squared_error, optimizer, solver=irnn.Picard(), guard=None)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 2)), jnp.float32)
    batch = x, jax.nn.sigmoid(3 * x[:, :1] * x[:, 1:])

    def create(key):
        net = irnn.init(key, (2, 1), dtype=jnp.float32, initialization="glorot")
        return irnn.TrainState.create(net, optimizer)

    keys = jax.random.split(jax.random.key(0), 2)
    states, metrics = irnn.fit(
        jax.vmap(create)(keys), keys, step=step, sample=lambda key: batch, num_epochs=1, num_steps=9
    )
    assert np.all(metrics.converged == 1)
    assert np.all(metrics.loss[:, 0, -1] < metrics.loss[:, 0, 0])
    assert {leaf.dtype for leaf in jax.tree.leaves(states.net)} == {jnp.dtype("float32")}
    # A run alone goes where it goes beside the other.
    alone = create(keys[1])
    for _ in range(9):
        alone, _ = step(alone, batch)
    own = jax.tree.map(lambda leaf: leaf[1], states.net)
    assert relative_error(own, alone.net) < 1e-4


def test_what_asks_for_the_loss_gets_it():
    """A line search in one group follows the loss with the other groups as they are."""
    net: Any = NETS["recurrent"]

    def loss_of(lateral, others):
        return sum(jnp.sum((leaf - 0.3) ** 2 * jnp.exp(leaf)) for leaf in lateral) * others

    def loss(net):
        # The other groups count, so that their values must be there.
        return loss_of(leaves_by_group(net)["lateral"], jnp.sum(net.feedback[0] ** 2))

    def of_lateral(leaves):
        return loss_of(leaves, jnp.sum(net.feedback[0] ** 2))

    value, grads = jax.jit(jax.value_and_grad(loss))(net)
    optimizer = frozen(lateral=optax.lbfgs())
    update, _ = jax.jit(
        lambda: optimizer.update(
            grads, optimizer.init(net), net, value=value, grad=grads, value_fn=loss
        )
    )()
    leaves, own = leaves_by_group(net)["lateral"], leaves_by_group(grads)["lateral"]
    alone = optax.lbfgs()
    expected, _ = jax.jit(
        lambda: alone.update(
            own, alone.init(leaves), leaves, value=value, grad=own, value_fn=of_lateral
        )
    )()
    assert relative_error(leaves_by_group(update)["lateral"], expected) < 1e-8
    assert loss(optax.apply_updates(net, update)) < value
    assert not any(np.any(leaf) for leaf in leaves_by_group(update)["feedforward"])


def test_a_step_gives_a_group_what_it_asks_for():
    net = NETS["feed_forward"]
    # The lateral weights that it lacks could not be searched along.
    optimizer = irnn.by_group(
        {"feedforward": optax.lbfgs(), "bias": optax.polyak_sgd(), "lateral": optax.lbfgs()}
    )
    step = irnn.make_train_step(irnn.squared_error, optimizer)
    state, losses = irnn.TrainState.create(net, optimizer), []
    for _ in range(4):
        state, metrics = step(state, (inputs(net), targets(net)))
        losses.append(float(metrics.loss))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.9 * losses[0]


# --- what is refused -----------------------------------------------------------------------------

ADAM = optax.adam(0.1)
AT_INIT = {
    "missing": (
        {"feedforward": ADAM, "bias": ADAM},
        "no transformation was given for the parameter group 'feedback'; given were "
        r"\('feedforward', 'bias'\)",
    ),
    "misspelled": (
        dict.fromkeys((*GROUPS, "latteral"), ADAM),
        r"unknown parameter group 'latteral'; the groups are \('feedforward', 'lateral', "
        r"'feedback', 'bias', 'readout'\)",
    ),
    "of_another_network": (
        dict.fromkeys((*GROUPS, "scale"), ADAM),
        "unknown parameter group 'scale'",
    ),
}


@pytest.mark.parametrize("name", AT_INIT)
def test_groups_that_do_not_fit_are_refused(name):
    given, message = AT_INIT[name]
    optimizer = irnn.by_group(given)
    with pytest.raises(ValueError, match=message):
        irnn.TrainState.create(NETS["recurrent"], optimizer)


def test_a_network_of_its_own_names_its_groups():
    with pytest.raises(ValueError, match=r"'redout'; the groups are \(.*'bias', 'readout'\)"):
        irnn.by_group({"lateral": ADAM, "readout": ADAM, "redout": ADAM}).init(READOUT)
    with pytest.raises(ValueError, match=r"no transformation was given for the .* 'readout'"):
        irnn.by_group({"lateral": ADAM}).init(READOUT)


@pytest.mark.usefixtures("without_runtime_types")
@pytest.mark.parametrize("value", [0.01, optax.constant_schedule(0.1), None, optax.adam])
def test_a_value_that_is_no_transformation_is_refused(value):
    message = rf"group 'lateral', got a {type(value).__name__}; use irnn.adam for rates"
    with pytest.raises(ValueError, match=message):
        irnn.by_group(dict.fromkeys(GROUPS, ADAM) | {"lateral": value})


@pytest.mark.usefixtures("without_runtime_types")
def test_one_transformation_for_all_is_refused():
    one: Any = ADAM
    with pytest.raises(ValueError, match=r"mapping from groups .*, got a GradientTransformation"):
        irnn.by_group(one)
