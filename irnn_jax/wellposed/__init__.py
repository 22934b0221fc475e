"""Ways to parametrise a network, one file each; a new one is a file and a line here.

Each constrains the scaled connections B = P A P^-1, P a positive diagonal, and leaves the input
weights Q and the biases T free.
"""

from irnn_jax.wellposed.certified import Certified, CertifiedNetwork
from irnn_jax.wellposed.scaled import ScaledNetwork
from irnn_jax.wellposed.symmetric import Symmetric, SymmetricNetwork

__all__ = ["Certified", "CertifiedNetwork", "ScaledNetwork", "Symmetric", "SymmetricNetwork"]
