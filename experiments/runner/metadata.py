"""metadata.json: what is known of a run besides its configuration, with a digest of itself."""

import hashlib
import json
from pathlib import Path
from typing import Any

from experiments.runner.errors import BadConfig
from experiments.runner.files import write_whole


def write(folder: Path, metadata: dict[str, Any]) -> None:
    """Replace it as a whole."""
    text = json.dumps(metadata | {"digest": _digest(metadata)}, indent=2) + "\n"
    write_whole(folder / "metadata.json", text)


def read(folder: Path) -> dict[str, Any] | None:
    """What was written; None without a run.

    Raises:
        BadConfig: it is not what was written.
    """
    path = folder / "metadata.json"
    try:
        metadata = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        metadata = None
    digest = metadata.pop("digest", None) if isinstance(metadata, dict) else None
    if metadata is None or digest != _digest(metadata):
        raise BadConfig(
            f"{path} is damaged, or of another version: delete it to go on from the checkpoints, "
            "or choose another folder"
        )
    return metadata


def _digest(metadata: Any) -> str:
    return hashlib.sha256(json.dumps(metadata).encode()).hexdigest()
