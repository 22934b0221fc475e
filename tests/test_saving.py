"""Files of networks: the same bits come back, and what was not saved is refused."""

import hashlib
import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import irnn_jax as irnn
from irnn_jax import saving
from tests.problems import NETWORKS, inputs, network

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


# --- what comes back -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_comes_back_to_the_bit(name, tmp_path):
    net = NETWORKS[name]
    loaded = through_a_file(net, tmp_path)
    assert type(loaded) is irnn.Network
    assert bits(loaded) == bits(net)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(loaded))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PARAMETRIZATIONS)
def test_every_kind_in_every_dtype(name, dtype, tmp_path):
    drawn = irnn.init(jax.random.key(0), (2, 3, 1), parametrization=PARAMETRIZATIONS[name])
    net: Any = jax.tree.map(lambda leaf: (leaf + 0.1).astype(dtype), drawn)
    loaded = through_a_file(net, tmp_path)
    assert type(loaded) is type(net)
    assert bits(loaded) == bits(net)


KEY = jax.random.key(0)
IMAGE = {"image": (4, 4, 1), "channels": (2, 3), "strides": (1, 2)}
HALF = np.array([[1], [0], [1]])
OTHERS = {
    "skips": irnn.init(KEY, (2, 3, 2, 1), skips=("0->2", "3->1")),
    "dale": irnn.dale(irnn.init(KEY, (2, 3, 1)), 0.5),
    "masked": irnn.masked(irnn.init(KEY, (2, 3, 1)), {"layers[0].lateral": np.eye(3)}),
    "masked_dale": irnn.masked(irnn.dale(irnn.init(KEY, (2, 3, 1)), 0.5), {"feedback[0]": HALF}),
    "convolutional": irnn.conv.init(KEY, **IMAGE, feedback=None),
    "certified_conv": irnn.conv.init(KEY, **IMAGE, parametrization=irnn.conv.Certified()),
    "readout": irnn.with_readout(KEY, irnn.conv.init(KEY, **IMAGE, recurrent=False), 2),
}


@pytest.mark.parametrize("name", OTHERS)
def test_kinds_with_masks_maps_and_static_fields(name, tmp_path):
    net = jax.tree.map(lambda leaf: leaf + 0.1, OTHERS[name])
    loaded = through_a_file(net, tmp_path)
    assert type(loaded) is type(net)
    assert bits(loaded) == bits(net)


def test_the_equilibrium_is_the_same_to_the_bit(tmp_path):
    net = NETWORKS["partly_recurrent"]
    loaded = through_a_file(net, tmp_path)
    assert [layer.lateral is None for layer in loaded.layers] == [True, False, False]
    found, again = (irnn.equilibrium(n, inputs(net)) for n in (net, loaded))
    assert np.all(found.converged)
    assert bits(found) == bits(again)


def test_without_weights_runs_and_numbers_that_are_none(tmp_path):
    twin = network((2, 3, 1), recurrent=False)
    assert bits(through_a_file(twin, tmp_path)) == bits(twin)
    runs = jax.vmap(lambda key: irnn.init(key, (2, 3, 1)))(jax.random.split(jax.random.key(0), 4))
    assert through_a_file(runs, tmp_path).layers[0].bias.shape == (4, 3)
    assert bits(through_a_file(runs, tmp_path)) == bits(runs)
    # A NaN with a payload, minus zero, and the smallest number.
    odd = np.array([0x7FF8000000000123, 1 << 63, 1], np.uint64).view(np.float64)
    layer = irnn.Layer(feedforward=jnp.zeros((3, 0)), lateral=None, bias=jnp.asarray(odd))
    assert bits(through_a_file(irnn.Network(layers=(layer,)), tmp_path))[2][2] == odd.tobytes()


def test_arrays_of_numpy_in_any_order(tmp_path):
    bias: Any = np.arange(2, dtype=">f8")
    weights: Any = np.arange(6.0).reshape(3, 2).T
    made = irnn.Layer(feedforward=weights, lateral=None, bias=bias)
    (loaded,) = through_a_file(irnn.Network(layers=(made,)), tmp_path).layers
    np.testing.assert_array_equal(loaded.feedforward, weights)
    np.testing.assert_array_equal(loaded.bias, bias)
    assert loaded.bias.dtype == np.float64


def test_the_file_is_what_the_module_says(tmp_path):
    irnn.save(str(tmp_path / FILE), TINY)
    first, header, numbers = (tmp_path / FILE).read_bytes().split(b"\n", 2)
    digest = hashlib.sha256(header + b"\n" + numbers).hexdigest()
    assert first.decode() == f"irnn_jax network {digest}"
    assert json.loads(header)["format"] == 1
    values = [np.asarray(leaf).ravel() for leaf in jax.tree.leaves(TINY)]
    assert numbers == np.concatenate(values).astype("<f8").tobytes()


class Masked(eqx.Module):
    """A kind of network of later, with all that a field may hold."""

    inner: irnn.Network
    mask: Any
    readout: tuple[Any, ...]
    window: tuple[Any, ...] = eqx.field(static=True)
    name: str = eqx.field(static=True)

    def network(self) -> irnn.Network:
        return self.inner

    def groups(self) -> Any:
        return jax.tree.map(lambda _: "lateral", self)


def test_another_kind_is_a_line_in_the_table(tmp_path, monkeypatch):
    net: Any = Masked(
        inner=TINY,
        mask=jnp.array([[True], [False]]),
        readout=(None, (jnp.arange(3, dtype=jnp.int32),), ()),
        window=(2, (0.1, None), True),
        name="5 × 5",
    )
    with pytest.raises(ValueError, match="net is a Masked, but only these are saved: Network, C"):
        irnn.save(tmp_path / FILE, net)
    monkeypatch.setitem(saving.KINDS, "Masked", Masked)
    loaded = through_a_file(net, tmp_path)
    assert bits(loaded) == bits(net)
    assert (loaded.window, loaded.name) == (net.window, net.name)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"net\.irnn holds a Masked, which this version"):
        irnn.load(tmp_path / FILE)


# --- files ---------------------------------------------------------------------------------------


def test_a_file_is_replaced_as_a_whole(tmp_path, monkeypatch):
    path = tmp_path / FILE
    irnn.save(path, TINY)
    before = path.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as broken:
        broken.setattr("os.fsync", fail)
        with pytest.raises(OSError, match="no space left"):
            irnn.save(path, NETWORKS["two_layers"])
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [FILE]
    irnn.save(path, NETWORKS["two_layers"])
    assert bits(irnn.load(path)) == bits(NETWORKS["two_layers"])
    assert [entry.name for entry in tmp_path.iterdir()] == [FILE]


def test_no_file_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        irnn.load(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError):
        irnn.save(tmp_path / "nowhere" / FILE, TINY)


# --- what is refused -----------------------------------------------------------------------------


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
