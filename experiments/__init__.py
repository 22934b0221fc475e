"""The paper's experiments; each is `python -m experiments.<name> key=value ...`."""

import importlib.util
import sys
from pathlib import Path

NEEDED = ("hydra", "omegaconf", "matplotlib", "rich", "scipy")


def _is_command() -> bool:
    """Whether one is being started, by `-m` (which is all that Python knows yet) or as a file."""
    return sys.argv[:1] == ["-m"] or Path(sys.argv[0]).parent.name == "experiments"


_missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
if _missing and _is_command():
    sys.exit(
        f"experiments need {', '.join(_missing)}: "
        'pip install -e ".[experiments]" in the checkout installs it'
    )
