"""The two ways in which a run ends early for a reason that is not a bug: one line tells each."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

# The medium's, and nobody's mistake.
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


class BadConfig(ValueError):
    """What was asked for cannot be run: the command ends with exit status 2."""


class Stopped(RuntimeError):
    """The run cannot go on, and its code is not to blame: the command ends with exit status 1."""


# Of these, Hydra and OmegaConf raise the last two.
BAD = (BadConfig, HydraException, OmegaConfBaseException)


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn what a full or broken disk raises into a Stopped."""
    try:
        yield
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        text = str(error).lower()
        for code in DISK:
            # Not only an OSError: orbax and TensorStore pass its text on in errors of their own.
            if number == code or os.strerror(code).lower() in text:
                raise Stopped(f"{folder} cannot be written to: {os.strerror(code)}") from error
        raise
