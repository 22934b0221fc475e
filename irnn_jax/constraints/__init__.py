"""What weights may be: which there are, and of which sign."""

from irnn_jax.constraints.dale import Dale, DaleNetwork, dale
from irnn_jax.constraints.masked import MaskedNetwork, masked
from irnn_jax.constraints.masks import local_mask, no_self_connections, random_mask

__all__ = [
    "Dale",
    "DaleNetwork",
    "MaskedNetwork",
    "dale",
    "local_mask",
    "masked",
    "no_self_connections",
    "random_mask",
]
