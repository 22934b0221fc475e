"""The doors: the equilibria of networks and of cells, and what is known of them."""

from irnn_jax.equilibrium.fixed_point import fixed_point
from irnn_jax.equilibrium.network import apply, equilibrium
from irnn_jax.equilibrium.record import Equilibrium, adjoint_probe

__all__ = ["Equilibrium", "adjoint_probe", "apply", "equilibrium", "fixed_point"]
