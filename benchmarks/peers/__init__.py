"""Every contender of the suite, one file a library; a new one is a line in its library's table."""

from benchmarks.peers import (
    from_diffrax,
    from_jaxopt,
    from_optimistix,
    from_scipy,
    from_torchdeq,
    ours,
)
from benchmarks.peers.base import Contender

CONTENDERS: tuple[Contender, ...] = (
    *ours.CONTENDERS,
    *from_optimistix.CONTENDERS,
    *from_jaxopt.CONTENDERS,
    *from_diffrax.CONTENDERS,
    *from_torchdeq.CONTENDERS,
    *from_scipy.CONTENDERS,
    ours.PICARD30,
)
