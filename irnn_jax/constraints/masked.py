"""Networks in which some weights are not there: exactly zero, whatever is learnt."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.tree_util import keystr, tree_flatten_with_path, tree_map_with_path
from jaxtyping import ArrayLike

from irnn_jax.constraints.binary import Binary, checked_binary
from irnn_jax.networks.dense import Network, NetworkLike, as_network, check_network
from irnn_jax.networks.groups import parameter_groups
from irnn_jax.wellposed import ScaledNetwork


class MaskedNetwork(eqx.Module):
    """The parameters of a `masked` network: those of the network inside.

    Attributes:
        inner: the network, or its free parameters.
        masks: of weights by name; static, and so nothing that an optimiser sees.
    """

    inner: NetworkLike
    masks: tuple[tuple[str, Binary], ...] = eqx.field(static=True)

    def network(self) -> Network:
        """The network inside, with zeros where a mask has them."""
        masks = dict(self.masks)

        def masked(path: Any, weights: Any) -> Any:
            mask = masks.get(_name(path))
            # Not a product: what is not there may be anything, and has a gradient of zero.
            return weights if mask is None else jnp.where(mask.array(), weights, 0)

        return tree_map_with_path(masked, as_network(self.inner))

    def groups(self) -> Any:
        """The groups of `adam`, as without masks."""
        groups = jax.tree.leaves(parameter_groups(self.inner))
        return jax.tree.unflatten(jax.tree.structure(self), groups)


def masked(net: NetworkLike, masks: Mapping[str, ArrayLike | None]) -> MaskedNetwork:
    """The network without some of its weights.

    A weight whose mask is 0 is exactly zero in `network()`, under any optimiser, and the gradient
    of its parameter is zero. Masks are static: runs under `jax.vmap` share them, and other masks
    make another program. Of a masked network, only what both masks allow is left.

    Args:
        net: a network, or one with a parametrisation, for instance `dale(...)`.
        masks: 0 or 1 (or booleans) for each entry of a weight array, by its name in the network:
            "layers[0].lateral", "feedback[0]", "skips['0->2']". Those that are not named, or
            None, stay whole.

    Raises:
        ValueError: a name that the network does not have, a mask of another shape than the
            weights' or with other entries, or a mask of weights from which `Certified` or
            `Symmetric` has its guarantee.
    """
    if not isinstance(masks, Mapping):
        raise ValueError(
            f"masks is a {type(masks).__name__}, but a dict is expected: "
            "{'layers[0].lateral': mask}"
        )
    inner, found = (net.inner, dict(net.masks)) if isinstance(net, MaskedNetwork) else (net, {})
    plain = as_network(inner)
    check_network(plain)
    shapes = {_name(path): leaf.shape for path, leaf in tree_flatten_with_path(plain)[0]}
    _check_names(inner, masks, list(shapes))
    for name, values in masks.items():
        if values is None:
            continue
        mask = checked_binary(f"the mask of {name}", values, shapes[name])
        found[name] = Binary.of(mask & found[name].array() if name in found else mask)
    return MaskedNetwork(inner=inner, masks=tuple(sorted(found.items(), key=lambda item: item[0])))


def _name(path: Any) -> str:
    """As Python finds it in the network: "layers[0].lateral"."""
    return keystr(path).removeprefix(".")


def _check_names(net: NetworkLike, masks: Mapping[str, Any], names: list[str]) -> None:
    for name in masks:
        if name not in names:
            raise ValueError(f"the network has no {name!r} to mask; it has {', '.join(names)}")
        free = name == "layers[0].feedforward" or name.endswith(".bias")
        if isinstance(net, ScaledNetwork) and not free:
            raise ValueError(
                f"a mask of {name} would undo what {type(net).__name__} guarantees; it takes masks "
                "of layers[0].feedforward and of biases"
            )
