"""A batch in chunks gives what it gives at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import irnn_jax as irnn
from irnn_jax.iterations.hammerstein import chunk_width
from irnn_jax.networks.dense import connections
from irnn_jax.xla import chunks
from tests.problems import inputs, network, relative_error


@pytest.mark.parametrize("width", [1, 4, 5, 10])
def test_each_sample_is_new_once(width):
    """Ten samples, the last chunk of which may begin within the one before it."""
    batch = {"x": jnp.arange(20.0).reshape(2, 10), "for_all": jnp.full((3, 1), 2.0)}

    def work(total, chunk, seen):
        assert chunk["x"].shape == (2, width)
        assert chunk["for_all"].shape == (3, 1)
        total = total + jnp.sum(jnp.where(seen, 0, chunk["x"][1]))
        return total, (chunk["x"] * chunk["for_all"][:2], chunk["x"][0] > 4)

    total, (double, late) = chunks.map_chunks(work, jnp.zeros(()), batch, count=10, width=width)
    assert total == np.sum(batch["x"][1])
    np.testing.assert_array_equal(double, 2 * batch["x"])
    np.testing.assert_array_equal(late, np.arange(10) > 4)


def test_chunks_are_for_one_cpu():
    def widths(count):
        seen = []

        def work(carry, chunk, _):
            seen.append(chunk.shape[-1])
            return carry, chunk

        batch = jnp.zeros((2, count))
        chunks.map_chunks_where_it_pays(work, jnp.zeros(()), batch, count=count, width=8)
        return set(seen)

    one_cpu = jax.default_backend() == "cpu" and jax.device_count() == 1
    assert chunks.on_one_cpu() == one_cpu
    assert widths(8) == {8}
    assert widths(24) == {8 if one_cpu else 24}


def test_only_those_that_need_it_are_worked_on(monkeypatch):
    """Seventy samples in chunks of ten: of four and of none, of all, and of several runs."""
    monkeypatch.setattr(chunks, "FEW", 10)
    monkeypatch.setattr(chunks, "on_one_cpu", lambda: True)
    widths = []
    number, matrix = jnp.arange(70.0), jnp.full((2, 2, 1), 3.0)

    def work(state, number, matrix, needed):
        assert matrix.shape == (2, 2, 1)
        jax.debug.callback(lambda n: widths.append(n.shape), number)
        moved = {"y": state["y"] + matrix[0, 0] * number, "done": needed}
        return jax.tree.map(lambda new, old: jnp.where(needed, new, old), moved, state)

    def solve(needed):
        state = {"y": jnp.ones((2, 70)), "done": jnp.zeros((1, 70), bool)}
        return chunks.run_for(work, needed[None], state, number[None], matrix, needed[None])

    def check(needed, found):
        expected = np.where(needed, 1 + 3 * number, 1)
        np.testing.assert_array_equal(found["y"], np.stack([expected, expected]))
        np.testing.assert_array_equal(found["done"][0], needed)

    four = jnp.isin(number, jnp.array([0, 33, 34, 69]))
    for needed, count in ((four, 1), (number < 0, 0), (number >= 0, 7), (number % 6 == 0, 2)):
        widths.clear()
        check(needed, jax.jit(solve)(needed))
        jax.effects_barrier()
        assert widths == [(1, 10)] * count
    runs = jnp.stack([four, number % 6 == 0])
    found = jax.vmap(solve)(runs)
    for run in range(2):
        check(runs[run], jax.tree.map(lambda leaf, run=run: leaf[run], found))


@pytest.mark.parametrize(("n", "together"), [(8, True), (64, False)])
def test_networks_share_chunks_while_their_matrices_are_small(monkeypatch, n, together):
    monkeypatch.setattr(chunks, "on_one_cpu", lambda: True)
    seen = []

    def work(state, matrix):
        seen.append((matrix.shape[-1], state.shape[-1]))
        return state + matrix[0, 0]

    def solve(matrix, state):
        return chunks.run_for(work, jnp.ones((1, 20), bool), state, matrix)

    matrices = jnp.arange(3.0)[:, None, None, None] * jnp.ones((3, n, n, 1))
    found = jax.vmap(solve)(matrices, jnp.zeros((3, n, 20)))
    expected = np.broadcast_to(np.arange(3.0)[:, None, None], found.shape)
    np.testing.assert_array_equal(found, expected)
    # A chunk of all sixty samples, each with its matrix; or twenty of each network, which share.
    assert seen[-1] == ((chunks.FEW, chunks.FEW) if together else (1, 20))


# By plain steps, by the chord, and, for the adjoint, by what follows where that does not end.
@pytest.mark.parametrize(
    ("hidden", "gain", "dtype"),
    [
        (60, 5.0, jnp.float64),
        (210, 5.0, jnp.float64),
        (210, 0.5, jnp.float32),
        pytest.param(60, 0.5, jnp.float64, marks=pytest.mark.slow),
        pytest.param(210, 0.5, jnp.float64, marks=pytest.mark.slow),
        pytest.param(210, 5.0, jnp.float32, marks=pytest.mark.slow),
    ],
)
def test_wide_networks_in_chunks(monkeypatch, hidden, gain, dtype):
    net = network((4, hidden, 3), scale=gain / np.sqrt(hidden))
    x = inputs(net, batch=2 * chunk_width(connections(net, dtype)[:, :, None]) + 3)
    net, x = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), (net, x))

    def gradient(in_chunks):
        monkeypatch.setattr(chunks, "on_one_cpu", lambda: in_chunks)

        def loss(net):
            result = irnn.equilibrium(net, x, solver=irnn.Exponential())
            return jnp.sum(jnp.sin(result.activities[-1])) / len(x), result

        return jax.jit(jax.grad(loss, has_aux=True))(net)

    actual, result = gradient(True)
    expected, at_once = gradient(False)
    assert np.all(result.converged & at_once.converged)
    same = float(jnp.finfo(dtype).eps) ** 0.6
    for a, b in zip(result.activities, at_once.activities, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=same)
    assert relative_error(actual, expected) < 10 * same
