"""What is traced how often: tracing is most of what a first call of a small network takes."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

import irnn_jax as irnn
from irnn_jax.xla.chunks import map_chunks
from irnn_jax.xla.trace import trace_once
from tests.problems import inputs, network

TRACES: list[str] = []


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counted(irnn.Picard):
    """That says when it is traced."""

    def solve(self, problem, y0, loop):
        TRACES.append(type(problem).__name__)
        return super().solve(problem, y0, loop)


def _of_a_network(net):
    return jnp.sum(irnn.apply(net, inputs(net), solver=Counted()))


def _of_a_cell(net):
    def cell(params, y, x):
        return jax.nn.sigmoid(params @ y + x)

    first = net.layers[0]
    result = irnn.fixed_point(cell, first.lateral, first.bias, 0 * first.bias, solver=Counted())
    return jnp.sum(result.activities)


@pytest.mark.parametrize("of", [_of_a_network, _of_a_cell])
@pytest.mark.parametrize("order", [1, 2])
def test_a_solve_is_traced_once_for_all_its_derivatives(of, order):
    jax.clear_caches()
    TRACES.clear()
    derivative = jax.grad(of)
    if order == 2:
        derivative = jax.jacrev(derivative)
    jax.jit(derivative).trace(network((3, 4, 2)))
    assert len(TRACES) == 1


def test_nothing_differs_by_it():
    @trace_once
    def solve(method, x):
        return method(x)

    x = jnp.arange(3.0)
    assert jnp.all(solve(jnp.sin, x) == jnp.sin(x))
    assert jnp.all(jax.grad(lambda x: solve(jnp.sin, x).sum())(x) == jnp.cos(x))


def test_a_chunk_is_traced_once():
    traces = []

    def work(carry, part, seen):
        traces.append(seen.shape)
        return carry, 2 * part

    jax.jit(lambda x: map_chunks(work, 0, x, count=7, width=3)[1]).trace(jnp.arange(7.0))
    assert traces == [(3,)]
