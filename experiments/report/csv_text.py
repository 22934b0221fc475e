"""Rows as CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any


def csv_text(
    rows: Sequence[Mapping[str, Any]], *, columns: Sequence[str] = (), newline: str = "\r\n"
) -> str:
    """A line for each row under the names of the columns, at least those given."""
    names = list(dict.fromkeys([*columns, *(column for row in rows for column in row)]))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=names, lineterminator=newline)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
