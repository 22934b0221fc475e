"""Which devices a run uses, and how its runs and samples lie on them."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PRNGKeyArray

from experiments.runner.errors import BadConfig

Devices = tuple[Any, ...]  # of `jax.Device`, which type checkers take for a variable

RUNS, SAMPLES = "runs", "samples"


@dataclasses.dataclass(frozen=True)
class Layout:
    """Runs over the first axis of a mesh of devices, test samples over the second.

    `mesh` is None on one device, where nothing needs to be laid out.
    """

    mesh: Mesh | None
    num_devices: int

    def __str__(self) -> str:
        if self.mesh is None:
            return "one device"
        runs, samples = (self.mesh.shape[axis] for axis in (RUNS, SAMPLES))
        idle = self.num_devices - runs * samples
        return (
            f"runs over {runs} devices"
            + (f", test samples over {samples}" if samples > 1 else "")
            + (f"; {idle} idle, as they do not divide the runs" if idle else "")
        )

    @property
    def over_runs(self) -> NamedSharding | None:
        return None if self.mesh is None else NamedSharding(self.mesh, PartitionSpec(RUNS))

    @property
    def lays_samples(self) -> bool:
        """Whether there are devices for the samples of a run to lie on."""
        return self.mesh is not None and self.mesh.shape[SAMPLES] > 1

    def place(self, tree: Any) -> Any:
        """Arrays on the host, (runs, ...), that all processes have, on the devices."""
        sharding = self.over_runs
        if sharding is None:
            return jax.tree.map(jax.numpy.asarray, tree)
        return jax.tree.map(
            lambda leaf: jax.make_array_from_callback(
                leaf.shape, sharding, lambda index: leaf[index]
            ),
            tree,
        )

    def place_keys(self, keys: PRNGKeyArray) -> PRNGKeyArray:
        if self.over_runs is None:
            return keys
        data = self.place(np.asarray(jax.random.key_data(keys)))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(keys))

    def context(self) -> contextlib.AbstractContextManager[Any]:
        """Where `lay_samples` finds the mesh."""
        return contextlib.nullcontext() if self.mesh is None else jax.set_mesh(self.mesh)

    def alone(self, function: Callable[..., Any], num_shared: int = 0) -> Callable[..., Any]:
        """A function of (runs, ...), so that each device sees its runs and waits for no other.

        Its last `num_shared` arguments are whole on every device.
        """
        if self.mesh is None:
            return function

        def on_each_device(*arguments: Any) -> Any:
            specs = [PartitionSpec(RUNS)] * (len(arguments) - num_shared)
            return jax.shard_map(
                function,
                mesh=self.mesh,
                in_specs=(*specs, *[PartitionSpec()] * num_shared),
                out_specs=PartitionSpec(RUNS),
                check_vma=False,
            )(*arguments)

        return on_each_device

    def share(self, make: Callable[[], Any]) -> Any:
        """What `make` makes, whole on every device."""
        if self.mesh is None:
            return jax.jit(make)()
        return jax.jit(make, out_shardings=NamedSharding(self.mesh, PartitionSpec()))()


def spread(devices: Devices, *, num_runs: int) -> Layout:
    """Runs over as many devices as divide them, and test samples over the rest.

    Raises:
        BadConfig: a process would be left without a device.
    """
    total = len(devices)
    if total == 1:
        return Layout(mesh=None, num_devices=1)
    along = max(n for n in range(1, total + 1) if num_runs % n == 0)
    across = total // along
    used = devices[: along * across]
    if {device.process_index for device in devices} != {device.process_index for device in used}:
        raise BadConfig(
            f"{num_runs} runs lie on {along * across} of {total} devices, which leaves a process "
            "without one: take a number of runs that the number of devices divides"
        )
    grid = np.array(used).reshape(along, across)
    return Layout(Mesh(grid, (RUNS, SAMPLES), axis_types=(AxisType.Auto,) * 2), total)


def lay_samples(tree: Any) -> Any:
    """Inside an evaluation, lay samples, (samples, ...), over the devices that the runs leave.

    If these do not divide the samples, nothing is laid anywhere, as on a single device.
    """
    mesh = jax.sharding.get_abstract_mesh()
    number = dict(mesh.shape).get(SAMPLES, 1)
    if number == 1 or any(len(leaf) % number for leaf in jax.tree.leaves(tree)):
        return tree
    return jax.lax.with_sharding_constraint(tree, PartitionSpec(SAMPLES))


def on_host(tree: Any) -> Any:
    """Copies on the host, whole, on every process."""
    if jax.process_count() > 1:
        tree = multihost_utils.process_allgather(tree, tiled=True)
    return jax.tree.map(np.array, tree)


def chosen(number: int | None) -> Devices:
    """The first `number` devices, all of them by default.

    Raises:
        BadConfig: there are fewer, or several processes are not to use all.
    """
    devices = tuple(jax.devices())
    if number is None:
        return devices
    if not 1 <= number <= len(devices):
        raise BadConfig(f"devices={number}, but there are {len(devices)}")
    if jax.process_count() > 1 and number < len(devices):
        raise BadConfig(f"devices={number}, but several processes use all of their devices")
    return devices[:number]
