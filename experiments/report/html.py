"""One self-contained HTML file: figures inlined, nothing fetched, readable in light and dark."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.report.content import Claim, Figure, Section, Table

CSS = (Path(__file__).parent / "report.css").read_text()


class Part(NamedTuple):
    """One experiment's section, and the configuration and metadata of the run behind it."""

    name: str
    section: Section
    config: str
    metadata: dict[str, Any]


def write_report(path: Path, parts: Sequence[Part], *, command: str) -> Path:
    """Write the report of one or more experiments, and return its path."""
    title = "Implicit recurrent networks: " + (
        parts[0].section.title if len(parts) == 1 else "the paper's experiments"
    )
    body = [
        f"<h1>{_text(title)}</h1>",
        _provenance(parts, command),
        _claims([claim for part in parts for claim in part.section.claims]),
        *(_part(part) for part in parts),
    ]
    path.write_text(
        "<!doctype html>\n"
        '<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{CSS}</style></head>\n"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )
    return path


def _part(part: Part) -> str:
    section = part.section
    choices = "".join(f"<li>{_text(choice)}</li>" for choice in section.choices)
    return "\n".join(
        [
            f'<section id="{_text(part.name)}"><h2>{_text(section.title)}</h2>',
            f"<p>{_text(section.question)}</p>",
            *(_figure(figure) for figure in section.figures),
            *(_table(table) for table in section.tables),
            f"<h3>Chosen where the paper is silent</h3><ul>{choices}</ul>" if choices else "",
            _timings(part.metadata["timings"]),
            f"<details><summary>Configuration</summary><pre>{_text(part.config)}</pre></details>",
            "</section>",
        ]
    )


def _provenance(parts: Sequence[Part], command: str) -> str:
    metadata = parts[0].metadata
    seconds = sum(part.metadata["wall_seconds"] for part in parts)
    versions = ", ".join(f"{name} {version}" for name, version in metadata["versions"].items())
    started = metadata["started"].replace("T", " ")
    facts = {
        "Repeat with": f"<code>{_text(command)}</code>",
        "Run": f"{_text(started)}, {seconds:.0f} s, on {_text(metadata['device'])}",
        "Code": _text(metadata["git"] or "not in a git checkout"),
        "Versions": _text(versions),
    }
    rows = "".join(f"<dt>{name}</dt><dd>{fact}</dd>" for name, fact in facts.items())
    return f'<dl class="provenance">{rows}</dl>'


def _claims(claims: Sequence[Claim]) -> str:
    if not claims:
        return ""
    rows = "".join(
        f"<tr><td>{_text(claim.paper)}</td>"
        f'<td><span class="badge {claim.verdict.name.lower()}">{claim.verdict}</span></td>'
        f"<td>{_text(claim.found)}</td></tr>"
        for claim in claims
    )
    head = "<tr><th>The paper</th><th>Here</th><th>What was found</th></tr>"
    return f'<h2>Verdicts</h2><div class="scroll"><table class="claims">{head}{rows}</table></div>'


def _table(table: Table) -> str:
    head = "".join(f"<th>{_text(column)}</th>" for column in table.columns)
    rows = "".join(
        "<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in table.rows
    )
    note = f'<p class="note">{_text(table.note)}</p>' if table.note else ""
    return (
        f"<h3>{_text(table.title)}</h3>"
        f'<div class="scroll"><table><tr>{head}</tr>{rows}</table></div>{note}'
    )


def _figure(figure: Figure) -> str:
    # As an image: inlined markup of several figures would share one space of element names.
    image = base64.b64encode(figure.path.with_suffix(".svg").read_bytes()).decode()
    caption = _text(figure.caption)
    return (
        f'<figure><img alt="{caption}" src="data:image/svg+xml;base64,{image}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _timings(timings: dict[str, dict[str, float]]) -> str:
    rows = [
        (name, f"{t['compile_seconds']:.1f}", f"{t['run_seconds']:.1f}")
        for name, t in timings.items()
    ]
    return _table(Table("Time in seconds", ("part", "compile", "run"), rows)) if rows else ""


def _text(value: object) -> str:
    return html.escape(str(value))
