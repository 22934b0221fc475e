"""From a command line to runs, and from what went wrong to one line and an exit status.

0: done. 1: the run could not go on. 2: it cannot be run as asked. 130: interrupted. A bug shows its
trace; HYDRA_FULL_ERROR=1 shows all traces.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from experiments.runner.errors import BAD, BadConfig, Stopped
from experiments.runner.launch import Experiment, launch
from experiments.runner.machine import tune_compiler

# Absolute: a relative one is looked up beside whatever module happens to run.
CONFIGS = str(Path(__file__).resolve().parents[2] / "configs")
TRACES = "HYDRA_FULL_ERROR"


def command(name: str, **experiments: Experiment) -> Callable[[], None]:
    """The command that runs the experiments as `configs/NAME.yaml` and the command line say."""

    def main() -> None:
        shows_traces = bool(os.environ.get(TRACES))
        has_begun = False

        def job(config: DictConfig) -> None:
            nonlocal has_begun
            has_begun = True
            # A sweep goes on with the next job, and Hydra raises the first error in the end.
            sweeps = HydraConfig.get().mode == RunMode.MULTIRUN
            with contextlib.nullcontext() if sweeps else edge(name, shows_traces):
                launch(config, experiments, module=name)

        tune_compiler()
        with edge(name, shows_traces), raising():
            try:
                hydra.main(version_base=None, config_path=CONFIGS, config_name=name)(job)()
            except OSError as error:
                if has_begun:
                    raise
                raise BadConfig(str(error)) from error  # Hydra makes the folder

    return main


@contextlib.contextmanager
def edge(name: str, shows_traces: bool) -> Iterator[None]:
    """Turn errors that are no bugs into a line on stderr and an exit."""
    try:
        yield
    except (*BAD, Stopped, KeyboardInterrupt) as error:
        if shows_traces:
            raise
        if isinstance(error, KeyboardInterrupt):
            sys.exit(130)
        # Where Hydra has looked is no help.
        line = " ".join(str(error).split()).split(" Config search path:")[0]
        print(f"{name}: error: {line}", file=sys.stderr)
        sys.exit(2 if isinstance(error, BAD) else 1)


@contextlib.contextmanager
def raising() -> Iterator[None]:
    """Let Hydra raise its errors: by itself it prints them, in many lines, and exits with 1."""
    before = os.environ.get(TRACES)
    os.environ[TRACES] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[TRACES]
        else:
            os.environ[TRACES] = before
