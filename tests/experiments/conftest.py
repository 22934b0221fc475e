"""One tiny run of everything, shared by the tests that look at what it left."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import pytest

from experiments import reproduce
from tests.experiments.commands import TWO_NETWORKS, finish, start

# Hydra would otherwise hang its own handlers on the root logger, for all tests to come.
QUIET = ("hydra/job_logging=none", "hydra/hydra_logging=none", "compilation_cache=null")

TINY = (
    "scalar_neuron.weights.count=8",
    "scalar_neuron.inputs.count=9",
    "scalar_neuron.shown_inputs=[-4.0,0.0]",
    "scalar_neuron.shown_weights=[-8.0,6.0]",
    "xor.num_seeds=4",
    "xor.num_steps=600",
    "xor.report_every=200",
    "xor.compare_at=400",
    "~pendulum.networks.semi",  # each network takes seconds to compile
    "pendulum.model.hidden=[2]",
    "pendulum.data.num_times=3",
    "pendulum.num_runs=2",
    "pendulum.num_epochs=2",
    "pendulum.steps_per_epoch=2",
    "pendulum.eval_every=1",
    "pendulum.num_test=10",
    "pendulum.test_chunk=4",
)


@contextlib.contextmanager
def quick_compilation() -> Iterator[None]:
    """Compiling is nearly all that these tests do, and XLA's optimisations are half of that."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    with quick_compilation():
        yield


def run_main(
    main: Callable[[], None], folder: Path, *overrides: str, flags: tuple[str, ...] = ()
) -> Path:
    """Call a Hydra application as the command line does, and return its output folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            sys, "argv", ["experiment", *flags, f"hydra.run.dir={folder}", *QUIET, *overrides]
        )
        patch.setenv("HYDRA_FULL_ERROR", "1")  # raise errors; do not turn them into exits
        main()
    return folder


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny `python -m experiments.reproduce`."""
    with quick_compilation():
        return run_main(reproduce.main, tmp_path_factory.mktemp("reproduce"), *TINY)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled programs: what one process has compiled, the others need not."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """The folder of a small pendulum that one process ran on one device, and nothing disturbed."""
    folder = tmp_path_factory.mktemp("alone")
    status, errors = finish(start(folder, *TWO_NETWORKS, cache=cache))
    assert status == 0, errors
    return folder
