"""How often a loop asks whether to go on, and where it runs: questions of the device."""

import math

import jax
from jax.sharding import AxisType

from irnn_jax.xla.tuning import STEPS_BETWEEN_CHECKS_ON_A_GPU


def checks_are_cheap() -> bool:
    """Whether to ask costs less than to do what is asked about, a product or two."""
    return jax.default_backend() != "gpu"


def steps_between_checks(max_steps: int) -> int:
    """How many steps to take from one check to the next, so that `max_steps` is a multiple."""
    return 1 if checks_are_cheap() else math.gcd(max_steps, STEPS_BETWEEN_CHECKS_ON_A_GPU)


def on_one_cpu() -> bool:
    """Whether what is traced runs on one device, and that is a CPU.

    Otherwise chunks are a loss: the samples may be spread over the devices, and a GPU wants many.
    """
    axes = jax.sharding.get_abstract_mesh().axis_types
    by_hand = bool(axes) and all(axis is AxisType.Manual for axis in axes)
    return jax.default_backend() == "cpu" and (jax.device_count() == 1 or by_hand)
