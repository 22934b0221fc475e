"""What is set up before JAX is first used: precision apart, all that only concerns the machine."""

import os
from pathlib import Path

import jax
from omegaconf import DictConfig

import irnn_jax as irnn
from experiments.runner import devices
from experiments.runner.errors import BadConfig


def tune_compiler() -> None:
    """Add the library's flags for CPUs, which JAX reads when it is first used; the user's win."""
    os.environ["XLA_FLAGS"] = irnn.cpu_xla_flags(os.environ.get("XLA_FLAGS", ""))


def set_up(config: DictConfig) -> devices.Devices:
    """Join the other processes, if any, set up the compilation cache, and choose the devices."""
    join(config.distributed)
    cache = config.compilation_cache
    # Both ways: in a sweep the setting of the job before would stay.
    jax.config.update(
        "jax_compilation_cache_dir", None if cache is None else str(Path(cache).expanduser())
    )
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    return devices.chosen(config.devices)


def join(config: DictConfig) -> None:
    """Become one of several processes that compute together, once."""
    if not config.enabled or jax.distributed.is_initialized():
        return
    try:
        jax.distributed.initialize(
            coordinator_address=config.coordinator,
            num_processes=config.num_processes,
            process_id=config.process_id,
        )
    except (ValueError, RuntimeError) as error:
        raise BadConfig(f"distributed: {' '.join(str(error).split())}") from error
