"""The tables and verdicts of a run on stdout."""

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import measure_renderables
from rich.table import Table as RichTable

from experiments.report.content import Section, Table, Verdict

STYLES = {
    Verdict.HOLDS: "green",
    Verdict.PARTLY: "yellow",
    Verdict.UNDECIDED: "yellow",
    Verdict.FAILS: "red",
}


def print_results(sections: Sequence[Section], report: Path) -> None:
    """What was found, and where the report lies."""
    # Rather let a row run over than have rich cut it off.
    tables = [as_rich(table) for section in sections for table in section.tables]
    wide = Console(width=1000)
    widths = [measure_renderables(wide, wide.options, [table]).maximum for table in tables]
    console = Console(highlight=False, width=max([Console().width, 110, *widths]))
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
