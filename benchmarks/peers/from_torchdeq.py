"""torchdeq: fixed-point iteration, Anderson and Broyden, eager on CPU, with implicit gradients.

All runs and samples are one batch for it, by `torch.baddbmm`. Its Anderson is paired with a
backward fixed-point iteration, which was faster than Anderson backward in every case tried.
"""

import functools
from typing import Any

import jax
import numpy as np

from benchmarks.peers.base import MAX_ITERATIONS, EagerContender


class TorchRun:
    """One batch, ready to be solved: z is (runs * batch, n), since torchdeq batches one axis."""

    def __init__(self, net, x, target, tolerance, *, forward, backward):
        import torch  # pyright: ignore[reportMissingImports]
        from torchdeq import get_deq  # pyright: ignore[reportMissingImports]

        device = "cuda" if torch.cuda.is_available() and jax.default_backend() == "gpu" else "cpu"
        put = functools.partial(torch.tensor, device=device)
        leaves, self.treedef = jax.tree.flatten(net)
        self.params = [put(np.asarray(leaf), requires_grad=True) for leaf in leaves]
        self.x, self.target = put(np.asarray(x)), put(np.asarray(target))
        self.deq = get_deq(
            f_solver=forward,
            b_solver=backward,
            f_max_iter=MAX_ITERATIONS,
            b_max_iter=MAX_ITERATIONS,
            f_tol=tolerance,
            b_tol=tolerance,
            ift=True,
        )
        self.torch = torch
        self.optimizer = torch.optim.Adam(self.params, lr=1e-4)

    def assemble(self):
        """A (runs, n, n) and b (runs, batch, n) from the parameters."""
        torch = self.torch
        net = self.treedef.unflatten(self.params)
        hidden, output = net.layers
        upper = torch.cat([hidden.lateral, net.feedback[0]], dim=2)
        lower = torch.cat([output.feedforward, output.lateral], dim=2)
        below = torch.baddbmm(hidden.bias[:, None], self.x, hidden.feedforward.transpose(1, 2))
        above = output.bias[:, None].expand(-1, self.x.shape[1], -1)
        return torch.cat([upper, lower], dim=1), torch.cat([below, above], dim=2)

    def activities(self):
        """Y (runs, batch, n), attached to the implicit gradient while the module trains."""
        torch = self.torch
        matrix, b = self.assemble()
        transposed = matrix.transpose(1, 2)

        def cell(z):
            return torch.sigmoid(torch.baddbmm(b, z.view_as(b), transposed)).flatten(0, 1)

        z, _ = self.deq(cell, torch.zeros_like(b).flatten(0, 1))
        return z[-1].view_as(b)

    def equilibria(self):
        self.deq.eval()
        with self.torch.no_grad():
            y = self.activities()
        self.deq.train()
        return y.cpu().numpy()

    def gradient(self):
        self.optimizer.zero_grad()
        y = self.activities()
        error = y[..., -self.target.shape[-1] :] - self.target
        (error**2).mean(dim=(1, 2)).sum().backward()
        params: Any = self.params
        grads = [param.grad.cpu().numpy() for param in params]
        return self.treedef.unflatten(grads), y.detach().cpu().numpy()

    def train(self, num_steps):
        for _ in range(num_steps):
            self.gradient()
            self.optimizer.step()


def _contender(name, forward, backward, samples=2000):
    return EagerContender(
        name=f"torchdeq {name}",
        library="torchdeq",
        prepare=functools.partial(TorchRun, forward=forward, backward=backward),
        samples=samples,
    )


CONTENDERS = (
    _contender("FixedPoint", "fixed_point_iter", "fixed_point_iter"),
    _contender("Anderson", "anderson", "fixed_point_iter"),
    # Its history takes a thousand numbers for each neuron of each sample.
    _contender("Broyden", "broyden", "broyden", samples=200),
)
