"""From a command line to runs, and from what went wrong to one line and an exit status.

0: done. 1: the run could not go on. 2: it cannot be run as asked. 130: interrupted. A bug shows its
trace; HYDRA_FULL_ERROR=1 shows all traces.
"""

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from experiments.harness.errors import BAD, BadConfig, Stopped
from experiments.harness.launch import CONFIGS, Experiments, launch
from experiments.harness.machine import tune_compiler

TRACES = "HYDRA_FULL_ERROR"

What = Callable[[DictConfig], Experiments]
Hook = Callable[[Any], object]  # as `sys.unraisablehook`


def entry(name: str) -> Callable[[What], Callable[[], None]]:
    """Make a command of a function that says which experiments a configuration asks for.

    What it is given is `configs/NAME.yaml`, changed as the command line says.
    """

    def decorate(what: What) -> Callable[[], None]:
        def main() -> None:
            shows_traces = bool(os.environ.get(TRACES))
            has_begun = False

            def job(config: DictConfig) -> None:
                nonlocal has_begun
                has_begun = True
                # A sweep goes on with the next job, and Hydra raises the first error in the end.
                sweeps = HydraConfig.get().mode == RunMode.MULTIRUN
                with contextlib.nullcontext() if sweeps else edge(name, shows_traces):
                    launch(config, what(config), module=name)

            if not shows_traces:
                sys.unraisablehook = without_closed_loops(sys.unraisablehook)
            tune_compiler()
            with edge(name, shows_traces), raising():
                try:
                    hydra.main(version_base=None, config_path=CONFIGS, config_name=name)(job)()
                except OSError as error:
                    if has_begun:
                        raise
                    raise BadConfig(str(error)) from error  # Hydra makes the folder

        return main

    return decorate


def without_closed_loops(hook: Hook) -> Hook:
    """A hook that is silent about writes that end after the loop that waited for them.

    When one write of a checkpoint fails, its error ends orbax's event loop while other threads
    still write, and each of these complains: before that error is caught here, or after.
    """

    def quiet(unraisable: "sys.UnraisableHookArgs") -> None:
        error = unraisable.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            hook(unraisable)

    return quiet


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
        if isinstance(error, Stopped):
            # A save that failed leaves threads and coroutines that complain, while the process
            # ends, of it.
            sys.unraisablehook = threading.excepthook = lambda _: None
            logging.getLogger("asyncio").setLevel(logging.CRITICAL + 1)
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
