"""How often a loop looks at whether to go on: a question of where it runs."""

import math

import jax

# A GPU's look is a round trip to its host: 25 to 35 µs, where a product of a few hundred neurons
# takes 4. Products alone, and steps of several kernels.
PRODUCTS_A_LOOK, STEPS_A_LOOK = 6, 4


def looks_are_cheap() -> bool:
    """Whether to ask costs less than to do what is asked about, a product or two."""
    return jax.default_backend() != "gpu"


def steps_a_look(max_steps: int) -> int:
    """How many steps to take from one look to the next, so that `max_steps` is a multiple."""
    return 1 if looks_are_cheap() else math.gcd(max_steps, STEPS_A_LOOK)
