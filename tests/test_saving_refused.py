"""Files of networks that are refused: damaged, foreign, of another version, or no networks."""

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import irnn_jax as irnn
from irnn_jax import saving
from tests.problems import network

DTYPES = [jnp.float32, jnp.float64, jnp.bfloat16, jnp.float16]
PARAMETRIZATIONS = {
    "none": None,
    "certified": irnn.Certified(margin=0.1, scale_limit=0.3),
    "symmetric": irnn.Symmetric(feedback=0.1),
}
TINY = network((1, 1), seed=1)
FILE = "net.irnn"


def bits(net: Any) -> list[Any]:
    """All there is to know: the structure with its static fields, dtypes, shapes, bytes."""
    leaves, structure = jax.tree.flatten(net)
    return [structure, *((leaf.dtype, leaf.shape, np.asarray(leaf).tobytes()) for leaf in leaves)]


def through_a_file(net: Any, folder: Path) -> Any:
    irnn.save(folder / FILE, net)
    return irnn.load(folder / FILE)


def refusal(data: bytes) -> str:
    with pytest.raises(ValueError, match=r"^(is|has|holds|does) ") as error:
        saving.decode(data)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_flipped_bit_and_every_truncation_is_refused():
    data = saving.encode(TINY)
    assert len(data) < 700
    for i in range(len(data)):
        for bit in range(8):
            flipped = data[:i] + bytes([data[i] ^ 1 << bit]) + data[i + 1 :]
            of_magic = i < len(saving.MAGIC)
            assert refusal(flipped).startswith("is not a file" if of_magic else "is damaged")
        short = refusal(data[:i])
        assert short.startswith("is not a file" if i < len(saving.MAGIC) else "is damaged")
    assert refusal(data + b"\0").startswith("is damaged")
    assert bits(saving.decode(data)) == bits(TINY)


@pytest.mark.parametrize("content", [b"", b"irnn_jax checkpoint 1 2 3\n", b"\x93NUMPY", b"PK\3\4"])
def test_other_files_are_refused_by_name(content, tmp_path):
    path = tmp_path / FILE
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not") as error:
        irnn.load(path)
    assert str(error.value) == f"{path} is not a file of irnn.save"


def sealed(change: Any) -> bytes:
    """A file with another header, under a digest of its own."""
    _, header, numbers = saving.encode(TINY).split(b"\n", 2)
    about = json.loads(header)
    changed = change(about)
    body = json.dumps(about if changed is None else changed).encode() + b"\n" + numbers
    return saving.MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def _layer(about: Any) -> Any:
    return about["net"]["fields"]["layers"][0]


OTHER = {
    "newer": (
        lambda about: about.update(format=2, irnn_jax="9.0", net="?"),
        "is of format 2, written by irnn_jax 9.0, but this version reads up to format 1: update",
    ),
    "unknown_kind": (
        lambda about: about["net"].update(kind="Eval"),
        "holds a Eval, which this version of irnn_jax does not know: it knows Network, Layer, ",
    ),
    "unknown_dtype": (
        lambda about: _layer(about)["fields"]["bias"].update(dtype="object"),
        "has an array of dtype object, which this version does not read",
    ),
    "fewer_arrays": (
        lambda about: _layer(about)["fields"].update(lateral=None),
        "has numbers that belong to no array",
    ),
    "other_fields": (lambda about: _layer(about)["fields"].update(more=None), "does not describe"),
    "too_few_fields": (lambda about: _layer(about)["fields"].pop("bias"), "does not describe"),
    "no_network": (lambda about: about.update(net=_layer(about)), "does not describe a network"),
    "no_header": (lambda about: [], "does not describe a network"),
    "no_format": (lambda about: about.update(format="new"), "does not describe a network"),
}


@pytest.mark.parametrize("name", OTHER)
def test_what_this_version_does_not_know_is_refused(name):
    change, message = OTHER[name]
    assert bits(saving.decode(sealed(lambda about: None))) == bits(TINY)
    assert refusal(sealed(change)).startswith(message)


def test_float64_is_not_narrowed(tmp_path):
    path = tmp_path / FILE
    irnn.save(path, TINY)
    message = f"{path} holds float64: float64 was asked for, but JAX has it switched off"
    with jax.enable_x64(False):
        with pytest.raises(ValueError, match="switched off") as error:
            irnn.load(path)
        assert str(error.value).startswith(message)
        narrow = irnn.init(jax.random.key(0), (2, 1))
        assert bits(through_a_file(narrow, tmp_path)) == bits(narrow)
    # And with it, float32 stays float32.
    assert irnn.load(path).sizes == (2, 1)  # pyright: ignore[reportAttributeAccessIssue]
    assert bits(irnn.load(path)) == bits(narrow)


def _with_bias(bias: Any) -> irnn.Network:
    return TINY._replace(layers=(TINY.layers[0]._replace(bias=bias),))


UNSAVED = {
    "dict": ({"weights": jnp.ones(2)}, "net is a dict, but only these are saved: Network, Cert"),
    "layer": (TINY.layers[0], "net is a Layer, but only these are saved: Network, Cert"),
    "number": (_with_bias(0.5), r"net\.layers\[0\]\.bias is a float, but only arrays are saved"),
    "complex": (_with_bias(1j * jnp.ones(1)), r"bias has dtype complex128, but only these are"),
    "key": (_with_bias(jax.random.key(0)), "bias has dtype key<fry>, but only these are saved"),
    "list": (TINY._replace(layers=[*TINY.layers]), r"net\.layers is a list, but only arrays"),
}


@pytest.mark.parametrize("name", UNSAVED)
def test_what_is_no_network_is_not_saved(name, tmp_path):
    net, message = UNSAVED[name]
    with pytest.raises(ValueError, match=message):
        irnn.save(tmp_path / FILE, net)
    assert not list(tmp_path.iterdir())


def test_static_fields_that_are_no_numbers_are_not_saved(tmp_path):
    net: Any = irnn.init(jax.random.key(0), (2, 2), parametrization=irnn.Certified())
    object.__setattr__(net, "bound", jnp.tanh)
    with pytest.raises(ValueError, match=r"net\.bound is .*tanh.*, which cannot be saved"):
        irnn.save(tmp_path / FILE, net)


@pytest.mark.parametrize("transform", [jax.jit, lambda f: lambda net: jax.grad(f)(net)])
def test_tracers_are_not_saved(transform, tmp_path):
    def inside(net):
        irnn.save(tmp_path / FILE, net)
        return 0.0

    with pytest.raises(ValueError, match=r"feedforward is traced and has no value yet: call irnn"):
        transform(inside)(TINY)
    assert not list(tmp_path.iterdir())
