"""Contenders for a convolutional cell, each with the settings in which it was fastest here.

The cell is written as a user writes it, channels last, the drive computed inside it. For a peer the
whole batch is one problem. A JAX contender is a function (params, x, y0, tolerance) -> (y, flags of
the samples or None), and a torchdeq one a class; the tolerance is traced, so that one program
serves all tolerances.

Tried and left out: jaxopt's default adjoint (conjugate gradients on the normal equations, up to 2.8
times as slow as BiCGStab); the regularisation of Anderson acceleration that jaxopt and torchdeq
have by default (up to 1.4 and 8 times as slow); torchdeq's Broyden, 3 times as slow as its Anderson
where plain iteration takes 15 steps, and divergent where it takes 150. lineax's BiCGStab reports a
breakdown in float32, and raises: it is kept for float64.
"""

import dataclasses
import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optimistix as optx

import irnn_jax as irnn
from benchmarks.peers.base import missing

MAX_ITERATIONS = 1000
TORCH_ITERATIONS = 300  # it keeps statistics for as many, whether they are made or not
KERNELS = ("kernel", "lateral")
LAYOUT = ("NHWC", "HWIO", "NHWC")


def conv(y, kernel):
    return jax.lax.conv_general_dilated(y, kernel, (1, 1), "SAME", dimension_numbers=LAYOUT)


def cell(params, y, x):
    """A batch (batch, height, width, channels)."""
    return jnp.tanh(conv(y, params["lateral"]) + conv(x, params["kernel"]) + params["bias"])


def one_sample(params, y, x):
    return cell(params, y[None], x[None])[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Convolutional:
    """A contender.

    Attributes:
        solve: see the module; for torchdeq the backward and the forward solver's names.
        peer: another library, to whose best the ratios are.
        own_tolerance: has one of its own, and is not given others.
        growing: its time is projected from two samples before it gets all.
    """

    name: str
    library: str
    solve: Any
    peer: bool = True
    own_tolerance: bool = False
    growing: bool = False

    def missing(self) -> str | None:
        return missing(self.library)


# --- this library ---------------------------------------------------------------------------


def _mapped(params, x, y0, tolerance, *, solver=None):
    del tolerance
    options = {} if solver is None else {"solver": solver}
    result = jax.vmap(lambda x, y0: irnn.fixed_point(one_sample, params, x, y0, **options))(x, y0)
    return result.activities, result.converged


def _batched(params, x, y0, tolerance):
    del tolerance
    options: dict[str, Any] = {"batched": True}
    result = irnn.fixed_point(cell, params, x, y0, **options)
    return result.activities, result.converged


def _ours(name, solve):
    growing = solve is _mapped
    return Convolutional(
        name=f"irnn_jax default, {name}",
        library="irnn_jax",
        solve=solve,
        peer=False,
        own_tolerance=True,
        growing=growing,
    )


OURS = [_ours("vmap", _mapped)]
if "batched" in inspect.signature(irnn.fixed_point).parameters:
    OURS.append(_ours("batched", _batched))


# --- jaxopt ---------------------------------------------------------------------------------


def _jaxopt(params, x, y0, tolerance, *, solver, adjoint="solve_bicgstab", **options):
    import jaxopt  # pyright: ignore[reportMissingImports]
    from jaxopt import linear_solve  # pyright: ignore[reportMissingImports]

    run = getattr(jaxopt, solver)(
        lambda y, params, x: cell(params, y, x),
        maxiter=MAX_ITERATIONS,
        tol=tolerance,
        implicit_diff=True,
        implicit_diff_solve=functools.partial(getattr(linear_solve, adjoint), tol=tolerance),
        **options,
    ).run
    return run(y0, params, x).params, None


def _from_jaxopt(name, **options):
    solve = functools.partial(_jaxopt, **options)
    return Convolutional(name=f"jaxopt {name}", library="jaxopt", solve=solve)


JAXOPT = [
    # The ridge is an absolute one: with its default, all that is left of small residuals.
    _from_jaxopt("Anderson, BiCGStab", solver="AndersonAcceleration", ridge=1e-12),
    _from_jaxopt(
        "Anderson, GMRES", solver="AndersonAcceleration", ridge=1e-12, adjoint="solve_gmres"
    ),
    _from_jaxopt("FixedPoint, BiCGStab", solver="FixedPointIteration"),
    _from_jaxopt("FixedPoint, GMRES", solver="FixedPointIteration", adjoint="solve_gmres"),
]


# --- optimistix -----------------------------------------------------------------------------


def _krylov(kind, tolerance):
    # Absolute ones: lineax's relative tolerance is relative to each entry, however small that is.
    if kind == "GMRES":
        return lx.GMRES(rtol=0.0, atol=tolerance, restart=10, stagnation_iters=10)
    return lx.BiCGStab(rtol=0.0, atol=tolerance)


def _optimistix(params, x, y0, tolerance, *, newton, adjoint):
    options: dict[str, Any] = {
        "args": (params, x),
        "max_steps": MAX_ITERATIONS,
        # The cotangent of a mean is that much smaller than the state.
        "adjoint": optx.ImplicitAdjoint(linear_solver=_krylov(adjoint, tolerance / y0.size)),
        "throw": False,
    }
    if newton is None:
        solver = optx.FixedPointIteration(rtol=0.0, atol=tolerance)
        solution = optx.fixed_point(lambda y, p: cell(p[0], y, p[1]), solver, y0, **options)
    else:
        solver = optx.Newton(rtol=0.0, atol=tolerance, linear_solver=_krylov(newton, tolerance))
        solution = optx.root_find(lambda y, p: cell(p[0], y, p[1]) - y, solver, y0, **options)
    return solution.value, None


def _from_optimistix(name, **options):
    solve = functools.partial(_optimistix, **options)
    return Convolutional(name=f"optimistix {name}", library="optimistix", solve=solve)


OPTIMISTIX = [
    _from_optimistix("FixedPoint, BiCGStab", newton=None, adjoint="BiCGStab"),
    _from_optimistix("FixedPoint, GMRES", newton=None, adjoint="GMRES"),
    _from_optimistix("Newton BiCGStab, BiCGStab", newton="BiCGStab", adjoint="BiCGStab"),
    _from_optimistix("Newton GMRES, GMRES", newton="GMRES", adjoint="GMRES"),
]


# --- torchdeq -------------------------------------------------------------------------------


class TorchRun:
    """One batch: `gradient(tolerance)` -> gradient, (y, None), in numpy, channels last."""

    def __init__(self, params, x, y0, target, *, forward, backward):
        import torch  # pyright: ignore[reportMissingImports]
        from torchdeq import solver  # pyright: ignore[reportMissingImports]

        # Its regularisation is an absolute one, which at 1e-4 is all that is left near the end.
        anderson = functools.partial(solver.anderson.anderson_solver, lam=1e-12)
        solver.register_solver("sharp anderson", anderson)
        self.torch, self.solvers = torch, {"f_solver": forward, "b_solver": backward}
        last = torch.channels_last

        def put(array, order):
            tensor = torch.tensor(np.transpose(np.asarray(array), order))
            return tensor.contiguous(memory_format=last)

        images, kernels = (0, 3, 1, 2), (3, 2, 0, 1)
        self.x, self.y0, self.target = (put(a, images) for a in (x, y0, target))
        self.params = {name: put(params[name], kernels) for name in KERNELS}
        self.params["bias"] = torch.tensor(np.asarray(params["bias"]))
        for tensor in self.params.values():
            tensor.requires_grad_()

    def gradient(self, tolerance):
        from torchdeq import get_deq  # pyright: ignore[reportMissingImports]

        conv2d, params = self.torch.nn.functional.conv2d, self.params
        deq = get_deq(
            **self.solvers,
            f_max_iter=TORCH_ITERATIONS,
            b_max_iter=TORCH_ITERATIONS,
            f_tol=tolerance,
            b_tol=tolerance,
            ift=True,
        )
        # Eager: nothing would take the drive out of the loop.
        drive = conv2d(self.x, params["kernel"], params["bias"], padding=1)
        step = lambda y: self.torch.tanh(conv2d(y, params["lateral"], padding=1) + drive)  # noqa: E731
        y = deq(step, self.y0)[0][-1]
        for tensor in params.values():
            tensor.grad = None
        ((y - self.target) ** 2).mean().backward()
        grads: dict[str, Any] = {name: tensor.grad for name, tensor in params.items()}
        gradient = {name: np.transpose(grads[name].numpy(), (2, 3, 1, 0)) for name in KERNELS}
        gradient["bias"] = grads["bias"].numpy()
        return gradient, (np.transpose(y.detach().numpy(), (0, 2, 3, 1)), None)


def _from_torchdeq(name, forward, backward):
    solve = functools.partial(TorchRun, forward=forward, backward=backward)
    return Convolutional(name=f"torchdeq {name}", library="torchdeq", solve=solve)


TORCHDEQ = [
    _from_torchdeq("FixedPoint", "fixed_point_iter", "fixed_point_iter"),
    _from_torchdeq("Anderson", "sharp anderson", "sharp anderson"),
    _from_torchdeq("Anderson, FixedPoint", "sharp anderson", "fixed_point_iter"),
]

CONTENDERS = (*OURS, *JAXOPT, *OPTIMISTIX, *TORCHDEQ)
