"""What an experiment finds, before any markup: tables, figures, claims."""

import enum
from pathlib import Path
from typing import Any, NamedTuple


class Table(NamedTuple):
    """`rows` hold text; `note` says what a reader needs to know to read them."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    note: str = ""


class Figure(NamedTuple):
    """`path` has no suffix: the same figure lies there as .png and .svg."""

    path: Path
    caption: str


class Verdict(enum.StrEnum):
    HOLDS = "holds"
    PARTLY = "partly"
    UNDECIDED = "undecided"
    FAILS = "does not hold"


class Claim(NamedTuple):
    """What the paper says, and what the numbers of this run say to it."""

    paper: str
    verdict: Verdict
    found: str


class Section(NamedTuple):
    """What one experiment found.

    `choices` were made where the paper is silent; `summary` is for summary.csv, a row a network.
    """

    title: str
    question: str
    claims: list[Claim]
    figures: list[Figure]
    tables: list[Table]
    choices: list[str]
    summary: list[dict[str, Any]]


def all_of(verdicts: list[Verdict]) -> Verdict:
    """The verdict on a claim that is made of several."""
    if Verdict.FAILS in verdicts:
        return Verdict.FAILS
    return verdicts[0] if len(set(verdicts)) == 1 else Verdict.PARTLY
