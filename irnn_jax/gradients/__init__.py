"""Ways to differentiate an equilibrium, one file each; a new one is a file and a line here."""

from irnn_jax.gradients.base import Adjoint, Gradient
from irnn_jax.gradients.exact import Exact
from irnn_jax.gradients.neumann import Neumann
from irnn_jax.gradients.semi import SemiGradient
from irnn_jax.gradients.unrolled import Unrolled

__all__ = [
    "Adjoint",
    "Exact",
    "Gradient",
    "Neumann",
    "SemiGradient",
    "Unrolled",
]
