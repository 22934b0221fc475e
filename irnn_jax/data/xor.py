"""The XOR table of the paper's section 2.3 (figs. 3 and 5)."""

import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float


def patterns(
    dtype: DTypeLike | None = None,
) -> tuple[Float[Array, "patterns=4 inputs=2"], Float[Array, "patterns=4 outputs=2"]]:
    """The four input patterns and their targets, in the order of the paper's tables.

    Column 0 of the targets is XOR, the target of the paper's Y1.  Column 1 is (0, 1, 0, 0),
    which is NOT X1 AND X2: the sub-problem on which fig. 5 trains Y2, needed by the semi-gradient
    because that cannot teach Y2 through Y1.  With the exact gradient, ignore it (fig. 3: "Any").

    Args:
        dtype: of both arrays; JAX's default float if None.

    Returns:
        inputs (4, 2) and targets (4, 2), made anew by each call: an array built at import time
        would start a backend and fix the dtype before the caller has configured JAX.
    """
    if dtype is None:
        dtype = jnp.result_type(float)
    inputs = jnp.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype)
    targets = jnp.array([[0, 0], [1, 1], [1, 0], [0, 0]], dtype)
    return inputs, targets
