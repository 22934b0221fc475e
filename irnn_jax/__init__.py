"""Implicit recurrent networks in JAX: equilibria with exact gradients.

A network with lateral and feedback weights answers a stationary input with the equilibrium of

    dY/dt = f(A Y + b(x)) - Y,    Y(0) = 0,

and is trained by exact gradients at that equilibrium: `init`, `apply`, `make_train_step`.
"""

from irnn_jax import conv
from irnn_jax.activations import PowerLaw
from irnn_jax.analysis.certificates import Certificate, certify
from irnn_jax.analysis.jacobians import jacobians
from irnn_jax.analysis.penalties import jacobian_penalty, jacobian_penalty_estimate
from irnn_jax.analysis.stability import Stability, stability
from irnn_jax.constraints import (
    Dale,
    dale,
    local_mask,
    masked,
    no_self_connections,
    random_mask,
)
from irnn_jax.equilibrium import apply, equilibrium
from irnn_jax.equilibrium.fixed_point import fixed_point
from irnn_jax.equilibrium.record import Equilibrium, adjoint_probe
from irnn_jax.gradients import Exact, Neumann, SemiGradient, Unrolled
from irnn_jax.implicit import AdjointReport
from irnn_jax.networks.dense import Layer, Network, NetworkLike
from irnn_jax.networks.drawing import init
from irnn_jax.networks.readout import ReadOut, read_out, with_readout
from irnn_jax.saving import load, save
from irnn_jax.solvers import (
    Anderson,
    Auto,
    Cascade,
    Euler,
    Exponential,
    Flow,
    InChunks,
    MixedPrecision,
    NewtonKrylov,
    Picard,
    PseudoTransient,
    RungeKutta4,
)
from irnn_jax.status import Status, describe
from irnn_jax.training.guard import Guard, GuardState
from irnn_jax.training.optimizers import adam, by_group
from irnn_jax.training.runs import fit, run_epoch
from irnn_jax.training.step import Metrics, TrainState, make_train_step, squared_error
from irnn_jax.wellposed import Certified, Symmetric
from irnn_jax.xla.flags import cpu_xla_flags

__all__ = [
    "AdjointReport",
    "Anderson",
    "Auto",
    "Cascade",
    "Certificate",
    "Certified",
    "Dale",
    "Equilibrium",
    "Euler",
    "Exact",
    "Exponential",
    "Flow",
    "Guard",
    "GuardState",
    "InChunks",
    "Layer",
    "Metrics",
    "MixedPrecision",
    "Network",
    "NetworkLike",
    "Neumann",
    "NewtonKrylov",
    "Picard",
    "PowerLaw",
    "PseudoTransient",
    "ReadOut",
    "RungeKutta4",
    "SemiGradient",
    "Stability",
    "Status",
    "Symmetric",
    "TrainState",
    "Unrolled",
    "adam",
    "adjoint_probe",
    "apply",
    "by_group",
    "certify",
    "conv",
    "cpu_xla_flags",
    "dale",
    "describe",
    "equilibrium",
    "fit",
    "fixed_point",
    "init",
    "jacobian_penalty",
    "jacobian_penalty_estimate",
    "jacobians",
    "load",
    "local_mask",
    "make_train_step",
    "masked",
    "no_self_connections",
    "random_mask",
    "read_out",
    "run_epoch",
    "save",
    "squared_error",
    "stability",
    "with_readout",
]
