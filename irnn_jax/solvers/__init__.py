"""Ways to reach the equilibrium, one file each; a new one is a file and a line here."""

from irnn_jax.solvers.anderson import Anderson
from irnn_jax.solvers.auto import Auto
from irnn_jax.solvers.base import Solved, Solver
from irnn_jax.solvers.cascade import Cascade
from irnn_jax.solvers.euler import Euler, Picard
from irnn_jax.solvers.exponential import Exponential
from irnn_jax.solvers.flow import Flow
from irnn_jax.solvers.in_chunks import InChunks
from irnn_jax.solvers.mixed_precision import MixedPrecision
from irnn_jax.solvers.newton_krylov import NewtonKrylov
from irnn_jax.solvers.pseudo_transient import PseudoTransient
from irnn_jax.solvers.runge_kutta import RungeKutta4

__all__ = [
    "Anderson",
    "Auto",
    "Cascade",
    "Euler",
    "Exponential",
    "Flow",
    "InChunks",
    "MixedPrecision",
    "NewtonKrylov",
    "Picard",
    "PseudoTransient",
    "RungeKutta4",
    "Solved",
    "Solver",
]
