"""The two ways in which a run ends early for a reason that is not a bug: one line tells each."""


class BadConfig(ValueError):
    """What was asked for cannot be run: the command ends with exit status 2."""


class Stopped(RuntimeError):
    """The run cannot go on, and its code is not to blame: the command ends with exit status 1."""
