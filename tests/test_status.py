"""Each sample says how it ended, in a code and in words."""

import functools
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import irnn_jax as irnn
from tests.problems import (
    CHEAP,
    NETWORKS,
    inputs,
    oscillator,
    scalar_neuron,
)
from tests.statuses import CONVERGED, LIMIT_CYCLE, MAX_STEPS, NON_FINITE, assert_status

# --- the codes ----------------------------------------------------------------------------------

# The oscillator: driven to rest, left to itself, without a drive, driven to rest.
DRIVES = jnp.array([[40.0, 40.0], [0.0, 0.0], [np.nan, 40.0], [-40.0, 40.0]])

ENDS = {
    "pseudo_transient": (irnn.PseudoTransient(), LIMIT_CYCLE, CONVERGED),
    "flow": (irnn.Flow(max_time=30.0), LIMIT_CYCLE, CONVERGED),
    # Without error control a solver cannot tell a limit cycle from its own instability.
    "picard": (irnn.Picard(), MAX_STEPS, CONVERGED),
    "runge_kutta": (irnn.RungeKutta4(num_steps=200), MAX_STEPS, CONVERGED),
    "two_steps": (irnn.PseudoTransient(max_steps=2), MAX_STEPS, MAX_STEPS),
}


@pytest.mark.parametrize("name", ENDS)
def test_samples_of_one_batch_end_in_their_own_ways(name):
    solver, alone, driven = ENDS[name]
    result = irnn.equilibrium(oscillator(), DRIVES, solver=solver)
    assert_status(result, [driven, alone, NON_FINITE, driven])


@pytest.mark.parametrize(
    "solver", [irnn.Picard(max_steps=300), irnn.RungeKutta4(num_steps=300)], ids=["picard", "rk4"]
)
def test_an_unstable_iteration_is_no_limit_cycle(solver):
    # One equilibrium, and the flow rests there: only the steps are too long.
    net, x, _ = scalar_neuron(-30.0, 0.3)
    result = irnn.equilibrium(net, x, solver=solver)
    assert result.residual > 0.1
    assert_status(result, MAX_STEPS)


def test_constant_steps_of_the_flow_are_no_limit_cycle():
    net, x, _ = scalar_neuron(-30.0, 0.3)
    solver = irnn.Flow(
        solver=diffrax.Heun(),
        stepsize_controller=diffrax.ConstantStepSize(),
        first_step=1.0,
        max_steps=100,
    )
    result = irnn.equilibrium(net, x, solver=solver)
    assert result.residual > 0.1
    assert_status(result, MAX_STEPS)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_input_that_is_not_finite_has_that_status(value):
    net = NETWORKS["two_layers"]
    x = inputs(net).at[1, 0].set(value)
    assert_status(irnn.equilibrium(net, x, solver=CHEAP), [CONVERGED, NON_FINITE, CONVERGED])


@pytest.mark.parametrize("leaf", range(len(jax.tree.leaves(NETWORKS["two_layers"]))))
def test_a_weight_that_is_nan_is_the_status_of_every_sample(leaf):
    net = NETWORKS["two_layers"]
    leaves, treedef = jax.tree.flatten(net)
    leaves[leaf] = leaves[leaf].at[(0,) * leaves[leaf].ndim].set(np.nan)
    result = irnn.equilibrium(jax.tree.unflatten(treedef, leaves), inputs(net), solver=CHEAP)
    assert_status(result, [NON_FINITE] * 3)


def test_a_feedforward_network_converges_where_its_input_is_finite():
    net = irnn.init(jax.random.key(0), (2, 3, 1), recurrent=False)
    x = jnp.array([[1.0, 2.0], [np.nan, 0.0], [np.inf, 0.0]])
    result = irnn.equilibrium(net, x, check_stability=True)
    assert_status(result, [CONVERGED, NON_FINITE, NON_FINITE])


def test_cells_end_in_their_own_ways():
    net = oscillator().layers[0]

    def cell(params, y, x):
        return jax.nn.sigmoid(params @ y + x)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, 0))
    def solve(x, y0):
        return irnn.fixed_point(cell, net.lateral, x, y0, solver=irnn.Flow(max_time=30.0))

    y0 = jnp.zeros((5, 2)).at[4, 1].set(np.nan)
    result = solve(jnp.concatenate([DRIVES, DRIVES[:1]]) + net.bias, y0)
    assert_status(result, [CONVERGED, LIMIT_CYCLE, NON_FINITE, CONVERGED, NON_FINITE])


# --- in words -----------------------------------------------------------------------------------


def _record(status: Any, num_steps: Any, residual: Any) -> irnn.Equilibrium:
    status = jnp.asarray(status, jnp.int32)
    return irnn.Equilibrium(
        activities=(),
        residual=jnp.asarray(residual, float),
        num_steps=jnp.asarray(num_steps, jnp.int32),
        converged=status == CONVERGED,
        status=status,
        sensitivity=jnp.ones(status.shape),
    )


RECORDS = {
    "all_converged": (
        _record([0, 0, 0], [4, 5, 8], [1e-16, 2.5e-13, 0.0]),
        "3 samples: 3 converged\nsteps: mean 5.7, max 8; largest residual: converged 2.5e-13\n",
    ),
    "one": (
        _record(0, 5, 2.22e-16),
        "1 sample: 1 converged\nsteps: mean 5.0, max 5; largest residual: converged 2.2e-16\n",
    ),
    "one_failed": (
        _record(1, 200, 0.25),
        "1 sample: 1 not converged in max_steps\n"
        "steps: mean 200.0, max 200; largest residual: others 0.25\n",
    ),
    "every_status": (
        _record([[0, 1, 2], [3, 4, 0]], [[1, 2, 3], [4, 5, 6]], [[0, 0.5, 0], [0.75, 0.1, 1e-12]]),
        "6 samples: 2 converged, 1 not converged in max_steps, 1 at an unstable equilibrium, "
        "1 probably in a limit cycle, 1 not finite\n"
        "steps: mean 3.5, max 6; largest residual: converged 1e-12, others 0.75 at [1, 0]\n",
    ),
    "not_finite": (
        _record([0, 4], [7, 0], [1e-13, np.inf]),
        "2 samples: 1 converged, 1 not finite\n"
        "steps: mean 3.5, max 7; largest residual: converged 1e-13, others inf at [1]\n",
    ),
    "none": (_record([], [], []), "no samples\n"),
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_in_words(name, capsys, tmp_path):
    record, expected = RECORDS[name]
    irnn.describe(record)
    printed = capsys.readouterr()
    assert printed.out == expected
    assert printed.err == ""
    with (tmp_path / "summary.txt").open("w") as file:
        irnn.describe(record, file=file)
    assert (tmp_path / "summary.txt").read_text() == expected
    assert capsys.readouterr().out == ""


def test_a_batch_in_words(capsys):
    irnn.describe(irnn.equilibrium(oscillator(), DRIVES, solver=irnn.Picard()))
    first, second = capsys.readouterr().out.splitlines()
    assert first == "4 samples: 2 converged, 1 not converged in max_steps, 1 not finite"
    assert "max 2000" in second
    assert second.endswith("others inf at [2]")


def test_a_cell_and_an_empty_batch_in_words(capsys):
    net, x, _ = scalar_neuron(2.0, 0.3)
    irnn.describe(irnn.equilibrium(net, jnp.zeros((0, 1)), solver=CHEAP))
    assert capsys.readouterr().out == "no samples\n"

    def cell(params, y, x):
        return jax.nn.sigmoid(params * y + x)

    irnn.describe(irnn.fixed_point(cell, 2.0, x, jnp.zeros(1), solver=CHEAP))
    assert capsys.readouterr().out.startswith("1 sample: 1 converged\nsteps: mean ")
