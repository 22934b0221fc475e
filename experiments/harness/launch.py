"""From a composed configuration to a folder of results and a report."""

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from experiments.harness.progress import Display
from experiments.harness.recording import Recording
from experiments.show.content import Section, Table, Verdict
from experiments.show.report import Part, write_report

# Absolute: a relative one is looked up beside whatever module happens to run.
CONFIGS = str(Path(__file__).resolve().parents[2] / "configs")

Run = Callable[[DictConfig, Recording, Display], Section]

STYLES = {
    Verdict.HOLDS: "green",
    Verdict.PARTLY: "yellow",
    Verdict.UNDECIDED: "yellow",
    Verdict.FAILS: "red",
}


def launch(experiments: Mapping[str, tuple[Run, DictConfig]]) -> None:
    """Run experiments one after the other, in Hydra's output folder, and report on them together.

    One that fails ends the launch with its error; the report then holds those before it.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    parts: list[Part] = []
    try:
        with Display() as display:
            for name, (run, config) in experiments.items():
                where = folder if len(experiments) == 1 else folder / name
                # Both ways: in a sweep the setting of the job before would stay.
                jax.config.update("jax_enable_x64", config.x64)
                with Recording(where, config, command=command()) as recording:
                    section = run(config, recording, display)
                    recording.summary(section.summary)
                parts.append(Part(name, section, OmegaConf.to_yaml(config), recording.metadata))
    finally:
        if parts:
            path = write_report(folder / "report.html", parts, command=command())
            print_results([part.section for part in parts], path)


def command() -> str:
    """What to type to run this again."""
    hydra_config = HydraConfig.get()
    overrides = list(hydra_config.overrides.task)
    return f"python -m experiments.{hydra_config.job.config_name} {shlex.join(overrides)}".strip()


def print_results(sections: list[Section], report: Path) -> None:
    """The tables and verdicts on stdout, and where the report lies."""
    # A table is wider than 80 columns: rather let a row run over than have rich cut it off.
    console = Console(highlight=False, width=max(Console().width, 110))
    for section in sections:
        console.rule(section.title)
        for table in section.tables:
            # Not the table's own title and caption, which rich breaks at the table's width.
            console.print(f"\n[bold]{escape(table.title)}[/]")
            console.print(as_rich(table))
            if table.note:
                console.print(f"[dim]{escape(table.note)}[/]")
        console.print()
        for claim in section.claims:
            verdict = f"[{STYLES[claim.verdict]}]{claim.verdict}[/]"
            console.print(f"{verdict}: {escape(claim.paper)} [dim]({escape(claim.found)})[/]")
        console.print()
    console.print(f"Report: {report}", soft_wrap=True, markup=False)


def as_rich(table: Table) -> RichTable:
    rich = RichTable(box=box.SIMPLE_HEAD)
    for i, column in enumerate(table.columns):
        rich.add_column(column, justify="right" if i else "left", no_wrap=True)
    for row in table.rows:
        rich.add_row(*row)
    return rich
