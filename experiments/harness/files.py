"""Files that are replaced as a whole: who reads one meanwhile never finds half of it."""

import os
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".tmp")
    with partial.open("w", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
