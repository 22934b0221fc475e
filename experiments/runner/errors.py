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
    except OSError as error:
        if error.errno not in DISK:
            raise
        raise Stopped(f"{folder} cannot be written to: {os.strerror(error.errno)}") from error


def one_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
