"""What a training step solves: a network of the library's, or a solve of the user's own."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike

from irnn_jax.activations import ActivationLike
from irnn_jax.equilibrium import equilibrium
from irnn_jax.equilibrium.record import Equilibrium, adjoint_probe
from irnn_jax.gradients import Gradient
from irnn_jax.implicit import AdjointReport, goes_forward
from irnn_jax.networks.cell_network import CellNetwork
from irnn_jax.networks.dense import NetworkLike, as_network
from irnn_jax.networks.readout import read_out
from irnn_jax.networks.time_constants import TimeConstants
from irnn_jax.solvers import Solver

# (params, x, probe) -> what the loss is of, and the equilibria with their flags (*batch).
OwnSolve = Callable[[Any, Any, AdjointReport | None], tuple[Any, Equilibrium]]


@runtime_checkable
class TrainedSolve(Protocol):
    """What the objective asks for: a frozen dataclass."""

    def __call__(self, params: Any, x: Any, probe: AdjointReport | None) -> tuple[Any, Equilibrium]:
        """The output of each sample, and the equilibria."""
        ...

    def probe(self, params: Any, x: Any) -> AdjointReport:
        """Zeros, through which the adjoint solves of a batch report."""
        ...

    def can_lose_equilibria(self, params: Any) -> bool:
        """Whether a guard has anything to look at."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkSolve:
    """A network, by `irnn_jax.equilibrium`, whose arguments these are."""

    solver: Solver
    gradient: Gradient
    activation: ActivationLike
    time_constants: TimeConstants | None
    check_stability: bool
    tolerance: ArrayLike | None

    def __post_init__(self):
        if goes_forward(self.gradient):
            raise ValueError(
                "a training step reports on its adjoint solves, for which its gradient is "
                f"reverse-mode alone: use irnn_jax.Exact(), got gradient={self.gradient!r}"
            )

    def __call__(
        self, params: NetworkLike, x: Array, probe: AdjointReport | None
    ) -> tuple[Array, Equilibrium]:
        """What is read out of the network."""
        result = equilibrium(
            params,
            x,
            solver=self.solver,
            gradient=self.gradient,
            activation=self.activation,
            time_constants=self.time_constants,
            check_stability=self.check_stability,
            tolerance=self.tolerance,
            probe=probe,
        )
        return read_out(params, result.activities), result

    def differs_from(self, other: "NetworkSolve") -> list[str]:
        """The names of the arguments that are not the same, numbers and arrays by identity."""
        names = (field.name for field in dataclasses.fields(self))
        pairs = ((name, getattr(self, name), getattr(other, name)) for name in names)
        return [n for n, a, b in pairs if a is not b and (b is None or a != b)]

    def probe(self, params: NetworkLike, x: Array) -> AdjointReport:
        """One of each sample."""
        net: Any = as_network(params)
        axes = len(net.input_shape) if isinstance(net, CellNetwork) else 1
        shape = jnp.shape(x)
        dtype = jnp.result_type(x, *jax.tree.leaves(net))
        return adjoint_probe(shape[: len(shape) - axes], dtype)

    def can_lose_equilibria(self, params: NetworkLike) -> bool:
        """Not without recurrent weights."""
        return as_network(params).is_recurrent


@dataclasses.dataclass(frozen=True, kw_only=True)
class GivenSolve:
    """What the caller solves; see `make_train_step`."""

    solve: OwnSolve

    def __call__(self, params: Any, x: Any, probe: AdjointReport | None) -> tuple[Any, Equilibrium]:
        """As it was given."""
        returned = self.solve(params, x, probe)
        if not isinstance(returned, tuple) or not isinstance(returned[-1], Equilibrium):
            raise ValueError(
                "solve must return (output, equilibrium) with an irnn_jax.Equilibrium, got a "
                f"{type(returned).__name__}"
            )
        return returned

    def probe(self, params: Any, x: Any) -> AdjointReport:
        """Of as many samples as there are flags."""
        residual = jax.eval_shape(lambda: self(params, x, None)[1].residual)
        return adjoint_probe(residual.shape, residual.dtype)

    def can_lose_equilibria(self, params: Any) -> bool:
        """As far as is known here."""
        del params
        return True
