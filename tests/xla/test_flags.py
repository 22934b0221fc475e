"""The flags for CPUs: XLA knows them, they do what they are for, and the numbers stay."""

import json
import os
import subprocess
import sys

import numpy as np

import irnn_jax as irnn

# Both sides run this, each in a process of its own: XLA reads its flags once.
PROGRAM = """
import json, sys
import jax, jax.numpy as jnp
import irnn_jax as irnn
jax.config.update("jax_enable_x64", True)
net = irnn.init(jax.random.key(0), (3, 18, 2))  # of fewer neurons it is one without flags
shift = lambda leaf: leaf + 0.4 * jnp.cos(jnp.arange(leaf.size).reshape(leaf.shape))
net = jax.tree.map(shift, net)
x = jax.random.normal(jax.random.key(1), (16, 3))
def loss(net):
    return jnp.sum(irnn.apply(net, x) ** 2)
compiled = jax.jit(jax.value_and_grad(loss)).lower(net).compile()
value, gradients = compiled(net)
numbers = [float(value), *jnp.concatenate([g.ravel() for g in jax.tree.leaves(gradients)]).tolist()]
json.dump({"numbers": numbers, "as_one": "xla_cpu_small_call" in compiled.as_text()}, sys.stdout)
"""


def run(flags: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_they_change_the_program_and_not_its_result():
    with_flags, without = run(irnn.cpu_xla_flags()), run("")
    assert with_flags["as_one"]
    assert not without["as_one"]
    np.testing.assert_allclose(with_flags["numbers"], without["numbers"], rtol=1e-11, atol=1e-13)


def test_flags_that_follow_win():
    none = "--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold=0"
    assert not run(irnn.cpu_xla_flags(none))["as_one"]
