"""Dale's law: all weights that leave a neuron have one sign.

    weight = sign of the source * |theta|

|theta| has a derivative of 1 at zero here, from the right, so that weights which start at zero, as
W and R do, learn. (JAX's is 0 there, and so is that of theta^2; a softplus has no zero.) A weight
that would rather have the other sign is driven through zero, comes back by the other branch, and
stays within a step of zero.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from irnn_jax.constraints.binary import checked_binary, concrete
from irnn_jax.networks.dense import Network, check_network
from irnn_jax.networks.groups import parameter_groups
from irnn_jax.networks.wiring import Connection, map_connections

Kinds = tuple[bool, ...]
KindsLike = Kinds | ArrayLike


class DaleNetwork(eqx.Module):
    """The free parameters of a network that obeys Dale's law.

    Attributes:
        theta: in the places of the weights; biases, and input weights without a sign, are
            themselves.
        excitatory: which neurons are, for the input and each layer, (size,); None: of any sign.
            Static.
    """

    theta: Network
    excitatory: tuple[Kinds | None, ...] = eqx.field(static=True)

    def network(self) -> Network:
        """The weights: each source's sign times |theta|."""

        def signed(connection: Connection, theta: Array) -> Array:
            kinds = self.excitatory[connection.source]
            if kinds is None:
                return theta
            return magnitude(theta) * jnp.where(np.asarray(kinds), 1, -1).astype(theta.dtype)

        return map_connections(signed, self.theta)

    def groups(self) -> Any:
        """The groups of `adam`, as those of the weights."""
        groups = jax.tree.leaves(parameter_groups(self.theta))
        return jax.tree.unflatten(jax.tree.structure(self), groups)


def magnitude(theta: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """|theta|, (...), with the derivative from the right at zero."""
    return jnp.where(theta < 0, -theta, theta)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dale:
    """Neurons that only excite, and neurons that only inhibit: `init(..., parametrization=)`.

    Drawn as the paper draws: W = R = 0, the same T, and the same Q but for signs: those between
    layers follow the law.

    Attributes:
        excitatory: a share, the same in every layer, or a tuple with one array of booleans for
            each layer, from the first hidden layer to the output. Of n neurons the first
            n * share, rounded, are excitatory: a drawn network's neurons are exchangeable.
        inputs: the same of the inputs, a share or one array; None: their weights have any sign.
    """

    excitatory: float | tuple[KindsLike, ...] = 0.8
    inputs: float | KindsLike | None = None

    def __post_init__(self):
        if not _is_share("excitatory", self.excitatory):
            if not isinstance(self.excitatory, tuple | list):
                kind = type(self.excitatory).__name__
                raise ValueError(
                    f"excitatory is a {kind}, but a share or a tuple with one array of booleans "
                    "for each layer is expected"
                )
            layers = tuple(
                _booleans(f"excitatory[{i}]", layer) for i, layer in enumerate(self.excitatory)
            )
            # Arrays have no hash, which a strategy must have.
            object.__setattr__(self, "excitatory", layers)
        if self.inputs is not None and not _is_share("inputs", self.inputs):
            object.__setattr__(self, "inputs", _booleans("inputs", self.inputs))

    def start(self, drawn: Network) -> DaleNetwork:
        """|theta| of the drawn weights, whose signs become those of the law."""
        if not isinstance(drawn, Network):
            raise ValueError(
                f"Dale's law is for a Network, got a {type(drawn).__name__}: let it be obeyed "
                "first, as in masked(dale(net, ...), masks)"
            )
        check_network(drawn)
        kinds = self._kinds(drawn.sizes)

        def start(connection: Connection, weights: Array) -> Array:
            return weights if kinds[connection.source] is None else jnp.abs(weights)

        return DaleNetwork(theta=map_connections(start, drawn), excitatory=kinds)

    def _kinds(self, sizes: tuple[int, ...]) -> tuple[Kinds | None, ...]:
        """Of the input and each layer."""
        num_layers = len(sizes) - 1
        layers = self.excitatory
        if not isinstance(layers, tuple):
            layers = (layers,) * num_layers
        if len(layers) != num_layers:
            raise ValueError(
                f"excitatory has {len(layers)} entries, but the network has {num_layers} layers"
            )
        inputs = None if self.inputs is None else _kinds_of("inputs", self.inputs, sizes[0])
        neurons = zip(layers, sizes[1:], strict=True)
        return inputs, *(
            _kinds_of(f"excitatory[{i}]", kinds, size) for i, (kinds, size) in enumerate(neurons)
        )


def dale(
    net: Network,
    excitatory: float | tuple[KindsLike, ...],
    *,
    inputs: float | KindsLike | None = None,
) -> DaleNetwork:
    """The network with its weights' signs as Dale's law has them.

    A weight whose sign fits, or that is zero, stays as it is; another one changes its sign. The
    law holds for lateral and feedback weights, for those to the next layer, and for skips.

    Args:
        net: a network of any topology; for masks, mask what this returns.
        excitatory: see `Dale`.
        inputs: see `Dale`.

    Raises:
        ValueError: a share outside of [0, 1], or booleans that do not fit the layers.
    """
    return Dale(excitatory=excitatory, inputs=inputs).start(net)


def _is_share(name: str, kinds: Any) -> bool:
    """Whether it is a number; a ValueError if that is no share."""
    if not isinstance(kinds, int | float | np.number) or isinstance(kinds, bool):
        return False
    if not 0 <= kinds <= 1:
        raise ValueError(f"{name} must be a share between 0 and 1, got {kinds}")
    return True


def _booleans(name: str, kinds: Any) -> Kinds:
    array = concrete(name, kinds)
    if array.ndim != 1:
        raise ValueError(f"{name} must have 1 axis, got shape {array.shape}")
    return tuple(checked_binary(name, array, array.shape).tolist())


def _kinds_of(name: str, kinds: Any, size: int) -> Kinds:
    if not isinstance(kinds, tuple):
        return tuple(i < int(kinds * size + 0.5) for i in range(size))
    checked_binary(name, kinds, (size,))
    return kinds
