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
