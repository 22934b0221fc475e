"""Networks in files: to the bit what was saved, or refused; numbers and names, and no code.

    irnn_jax network SHA256             of all that follows
    {"format": 1, "irnn_jax": ..., "net": ...}      a line of JSON: what the network is made of
    ...                                 its arrays one after the other, little-endian

One digest covers every byte, the version of the format included, so no damage reads as another
network. Only kinds in the table below are built, from the fields that they have.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import math
import os
import uuid
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from irnn_jax.constraints import DaleNetwork, MaskedNetwork
from irnn_jax.constraints.binary import Binary
from irnn_jax.networks.convolutional import ConvLayer, ConvNetwork
from irnn_jax.networks.dense import Layer, Network, NetworkLike, ParametrizedNetwork
from irnn_jax.networks.drawing import checked_dtype
from irnn_jax.networks.readout import ReadOut
from irnn_jax.wellposed import CertifiedNetwork, SymmetricNetwork
from irnn_jax.wellposed.convolutional import CertifiedConvNetwork

MAGIC = b"irnn_jax network "
FORMAT = 1

# What a network may be made of: a NamedTuple or an equinox module, a line each.
KINDS: dict[str, Any] = {
    "Network": Network,
    "Layer": Layer,
    "CertifiedNetwork": CertifiedNetwork,
    "SymmetricNetwork": SymmetricNetwork,
    "DaleNetwork": DaleNetwork,
    "MaskedNetwork": MaskedNetwork,
    "ConvNetwork": ConvNetwork,
    "ConvLayer": ConvLayer,
    "CertifiedConvNetwork": CertifiedConvNetwork,
    "ReadOut": ReadOut,
}

# What a description that is none raises, under a digest that is right.
MALFORMED = (
    LookupError,
    TypeError,
    AttributeError,
    RecursionError,
    json.JSONDecodeError,
    UnicodeDecodeError,
)

DTYPES = ("float32", "float64", "bfloat16", "float16", "bool", "int32")


def save(path: str | os.PathLike[str], net: NetworkLike) -> None:
    """Write a network, or the free parameters of a parametrised one, into one file.

    Shapes and dtypes are kept, and every bit of every number; so is a leading axis of runs. The
    file is written beside `path` and then put in its place, so that none is ever half there.

    Args:
        path: of the file, of any name; one that is there is replaced.
        net: a network of any kind of the library's, parametrised or not, with a read-out or not.

    Raises:
        ValueError: `net` is of a kind that cannot be saved, or holds what is not an array, for
            instance a tracer: nothing is saved inside `jax.jit`, `jax.vmap` or `jax.grad`.
        OSError: the file cannot be written.
    """
    data = encode(net)
    path = Path(path)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def load(path: str | os.PathLike[str]) -> NetworkLike:
    """The network in a file of `save`, with JAX arrays.

    Raises:
        ValueError: the file is none of `save`'s, or is damaged; it is of a newer format, or holds
            a kind of network that this version lacks; it holds float64 while `jax_enable_x64` is
            off.
        OSError: the file cannot be read, for instance FileNotFoundError.
    """
    data = Path(path).read_bytes()
    try:
        return decode(data)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)} {error}") from None


def encode(net: NetworkLike) -> bytes:
    """A network as bytes."""
    if _name(net) is None or not isinstance(net, Network | ParametrizedNetwork):
        raise ValueError(f"net is a {type(net).__name__}, but only these are saved: {_networks()}")
    arrays: list[bytes] = []
    try:
        version = importlib.metadata.version("irnn_jax")
    except importlib.metadata.PackageNotFoundError:  # run from its source
        version = "unknown"
    header = {"format": FORMAT, "irnn_jax": version, "net": _described(net, "net", arrays)}
    body = b"".join((json.dumps(header, allow_nan=False).encode(), b"\n", *arrays))
    return MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def decode(data: bytes) -> NetworkLike:
    """A network from its bytes; the errors begin after the name of what holds them."""
    first, _, body = data.partition(b"\n")
    if not data.startswith(MAGIC):
        raise ValueError("is not a file of irnn.save")
    if first != MAGIC + hashlib.sha256(body).hexdigest().encode():
        raise ValueError("is damaged: its contents are not those that were saved")
    header, _, numbers = body.partition(b"\n")
    try:
        about = json.loads(header)
        if about["format"] > FORMAT:
            raise ValueError(
                f"is of format {about['format']}, written by irnn_jax {about['irnn_jax']}, but this"
                f" version reads up to format {FORMAT}: update irnn_jax"
            )
        arrays = _Arrays(numbers)
        net = _built(about["net"], arrays)
        arrays.check_end()
    except MALFORMED:
        net = None
    if not isinstance(net, Network | ParametrizedNetwork):
        raise ValueError("does not describe a network that this version of irnn_jax can build")
    return net


def _networks() -> str:
    whole = (name for name, kind in KINDS.items() if kind is Network or hasattr(kind, "network"))
    return ", ".join(whole)


# --- to JSON and bytes ---------------------------------------------------------------------------


def _name(value: Any) -> str | None:
    """Of its kind, in the table; a subclass is another kind."""
    return next((name for name, kind in KINDS.items() if type(value) is kind), None)


def _fields(kind: Any) -> dict[str, bool]:
    """The names of a kind's fields, and whether they are static."""
    if hasattr(kind, "_fields"):
        return dict.fromkeys(kind._fields, False)
    return {
        name: bool(field.metadata.get("static", False))
        for name, field in kind.__dataclass_fields__.items()
    }


def _described(value: Any, where: str, arrays: list[bytes]) -> Any:
    """What JSON says of a part of a network; its arrays' bytes are appended to `arrays`."""
    if value is None:
        return None
    if type(value) is tuple:
        return [_described(part, f"{where}[{i}]", arrays) for i, part in enumerate(value)]
    if type(value) is dict:
        parts = {key: _described(value[key], f"{where}[{key!r}]", arrays) for key in sorted(value)}
        return {"mapping": parts}
    if name_of_kind := _name(value):
        fields = {}
        for name, is_static in _fields(type(value)).items():
            part, there = getattr(value, name), f"{where}.{name}"
            fields[name] = _static(part, there) if is_static else _described(part, there, arrays)
        return {"kind": name_of_kind, "fields": fields}
    return _array(value, where, arrays)


def _static(value: Any, where: str) -> Any:
    """A number, a string, a truth value, None, tuples of these, as they are; a mask."""
    if type(value) is Binary:
        return {"shape": [*value.shape], "packed": value.packed.hex()}
    if type(value) is tuple:
        return [_static(part, where) for part in value]
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float and math.isfinite(value):
        return value  # JSON keeps every bit
    raise ValueError(f"{where} is {value!r}, which cannot be saved as part of a network")


def _array(value: Any, where: str, arrays: list[bytes]) -> dict[str, Any]:
    if isinstance(value, Tracer):
        raise ValueError(
            f"{where} is traced and has no value yet: call irnn.save outside of jax.jit, jax.vmap "
            "and jax.grad"
        )
    if not isinstance(value, jax.Array | np.ndarray):
        raise ValueError(f"{where} is a {type(value).__name__}, but only arrays are saved")
    name = str(value.dtype.name)
    if name not in DTYPES:
        raise ValueError(f"{where} has dtype {name}, but only these are saved: {', '.join(DTYPES)}")
    # Of any layout and byte order; as unsigned integers, which have an order of bytes, not NaNs.
    plain = np.ascontiguousarray(np.asarray(value), jnp.dtype(name))
    bits = plain.view(f"u{plain.itemsize}")
    arrays.append(bits.astype(bits.dtype.newbyteorder("<")).tobytes())
    return {"dtype": name, "shape": [*value.shape]}


# --- and back ------------------------------------------------------------------------------------


class _Arrays:
    """The bytes of the arrays, of which one after the other is taken."""

    def __init__(self, data: bytes):
        self._data, self._begin = data, 0

    def take(self, name: str, shape: list[int]) -> jax.Array:
        if name not in DTYPES:
            raise ValueError(f"has an array of dtype {name}, which this version does not read")
        dtype = jnp.dtype(name)
        try:
            if jnp.issubdtype(dtype, jnp.floating):
                checked_dtype(dtype)
        except ValueError as error:
            raise ValueError(f"holds {name}: {error}") from None
        end = self._begin + math.prod(shape) * dtype.itemsize
        bits = np.frombuffer(self._data[self._begin : end], f"<u{dtype.itemsize}")
        self._begin = end
        # Copied: in the order of this machine, aligned, and not holding on to the whole file.
        return jnp.array(bits.astype(f"u{dtype.itemsize}").view(dtype).reshape(shape))

    def check_end(self) -> None:
        if self._begin != len(self._data):
            raise ValueError("has numbers that belong to no array")


def _built(about: Any, arrays: _Arrays) -> Any:
    """The part of a network that `_described` describes."""
    if about is None:
        return None
    if isinstance(about, list):
        return tuple(_built(part, arrays) for part in about)
    if "mapping" in about:
        return {key: _built(part, arrays) for key, part in about["mapping"].items()}
    if "dtype" in about:
        return arrays.take(about["dtype"], about["shape"])
    if about["kind"] not in KINDS:
        raise ValueError(
            f"holds a {about['kind']}, which this version of irnn_jax does not know: it knows "
            f"{', '.join(KINDS)}"
        )
    kind, fields = KINDS[about["kind"]], about["fields"]
    is_static = _fields(kind)
    parts = {
        name: _restored(part) if is_static[name] else _built(part, arrays)
        for name, part in fields.items()
    }
    return kind(**parts)


def _restored(value: Any) -> Any:
    """A static field: JSON has lists for tuples."""
    if isinstance(value, dict):
        return Binary(shape=tuple(value["shape"]), packed=bytes.fromhex(value["packed"]))
    return tuple(_restored(part) for part in value) if isinstance(value, list) else value
