"""From a composed configuration to a folder of results and a report."""

import contextlib
import io
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from experiments.report.console import print_results
from experiments.report.content import Section
from experiments.report.html import Part, write_report
from experiments.runner import machine, processes
from experiments.runner.config import Machine, check
from experiments.runner.devices import Devices
from experiments.runner.errors import BadConfig, disk_errors
from experiments.runner.progress import Display
from experiments.runner.recording import Recording
from experiments.runner.resuming import (
    holds_run,
    is_done,
    newest_unfinished,
    refuse_another,
    what_is_run,
)
from experiments.runner.tensorboard import board

# Overrides that say where and how to run, and not what.
ELSEWHERE = ("resume=", "launch=", "compilation_cache=", "distributed", "tensorboard=")

Run = Callable[[DictConfig, Recording], Section]


class Experiment(NamedTuple):
    """How an experiment is run, and what its configuration must hold (`runner.config`)."""

    run: Run
    schema: type


def launch(config: DictConfig, experiments: Mapping[str, Experiment], *, module: str) -> None:
    """Run experiments one after the other, in one folder, and report on them together.

    One that fails ends the launch with its error; the report then holds those before it. Where an
    interrupted launch of the same configuration is found, it goes on.

    Args:
        config: of the only experiment, or with the configuration of each under its name.
        experiments: by name.
        module: of `experiments`, whose command this is.
    """
    asked_for = Path(HydraConfig.get().runtime.output_dir)
    alone = len(experiments) == 1
    runs = [experiment.run for experiment in experiments.values()]
    parts = {"." if alone else n: what_is_run(config if alone else config[n]) for n in experiments}
    try:
        check(config, Machine)
        devices = machine.set_up(config)
        for (part, node), experiment in zip(parts.items(), experiments.values(), strict=True):
            check(node, experiment.schema, name="" if alone else part)
        chosen = processes.decide(lambda: str(choose(asked_for, parts, resume=config.resume)))
        folder = Path(chosen)
        if processes.decide(lambda: is_done(folder, parts)):
            print(f"Done already: {folder / 'report.html'}", file=sys.stderr)
            return
        if processes.is_first() and holds_run(folder, parts):
            print(f"Goes on in {folder}", file=sys.stderr)
        with contextlib.ExitStack() as stack:
            if not processes.is_first():
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            log = bool(config.tensorboard) and processes.is_first()
            with disk_errors(folder):
                run_parts(folder, runs, parts, devices, command=command(module), log=log)
    except KeyboardInterrupt:
        again = f"{command(module)} hydra.run.dir={asked_for}"
        print(f"Interrupted; to go on: {again}", file=sys.stderr)
        raise
    finally:
        remove_empty(asked_for)


def run_parts(
    folder: Path,
    runs: Sequence[Run],
    configs: Mapping[str, DictConfig],
    devices: Devices,
    *,
    command: str,
    log: bool,
) -> None:
    """The experiments in their folders, and the report on all of them; `log` for TensorBoard."""
    done: list[Part] = []
    try:
        with Display(None if processes.is_first() else io.StringIO()) as display:
            for run, (part, config) in zip(runs, configs.items(), strict=True):
                # Both ways: in a sweep the setting of the job before would stay.
                jax.config.update("jax_enable_x64", config.x64)
                where = folder / part
                with contextlib.ExitStack() as stack:
                    recording = stack.enter_context(
                        Recording(where, config, command=command, devices=devices, display=display)
                    )
                    if log:
                        recording.sinks.append(stack.enter_context(board(where / "tensorboard")))
                    section = run(config, recording)
                    recording.summary(section.summary)
                    recording.claims(section.claims)
                done.append(
                    Part(config.name, section, OmegaConf.to_yaml(config), recording.metadata)
                )
    finally:
        if done:
            path = write_report(folder / "report.html", done, command=command)
            if processes.is_first():
                print_results([part.section for part in done], path)


def choose(asked_for: Path, parts: Mapping[str, DictConfig], *, resume: bool) -> Path:
    """The folder to run in: the one asked for, or with `resume` the newest unfinished run's."""
    if resume and not holds_run(asked_for, parts) and not is_fixed():
        asked_for = newest_unfinished(asked_for.parent, parts)
    for part, config in parts.items():
        refuse_another(asked_for / part, config)
    if not os.access(asked_for, os.R_OK | os.W_OK | os.X_OK):
        raise BadConfig(f"{asked_for} cannot be written to")
    return asked_for


def is_fixed() -> bool:
    """Whether the command line says where to write: a default folder is another one each time."""
    hydra_config = HydraConfig.get()
    where = "sweep" if hydra_config.mode == RunMode.MULTIRUN else "run"
    return any(
        override.lstrip("+").startswith(f"hydra.{where}.dir=")
        for override in hydra_config.overrides.hydra
    )


def remove_empty(folder: Path) -> None:
    """Hydra makes the folder before anything is checked: remove it, and its parents, if unused."""
    for path in (folder, *folder.parents):
        is_ours = path == folder or Path.cwd() in path.parents
        if not is_ours or not path.is_dir() or any(path.iterdir()):
            return
        path.rmdir()


def command(module: str) -> str:
    """What to type to run this again."""
    hydra_config = HydraConfig.get()
    overrides = [
        override
        for override in hydra_config.overrides.task
        if not override.lstrip("+").startswith(ELSEWHERE)
    ]
    if hydra_config.job.config_name != module:  # a configuration of the user's own
        overrides = ["--config-name", hydra_config.job.config_name, *overrides]
    own = [s.path for s in hydra_config.runtime.config_sources if s.provider == "command-line"]
    overrides = [*(word for path in own for word in ("--config-dir", path)), *overrides]
    return f"python -m experiments.{module} {shlex.join(overrides)}".strip()
