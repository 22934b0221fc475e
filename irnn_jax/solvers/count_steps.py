"""A step size controller for diffrax that controls nothing: its time counts the steps."""

from typing import Any

import diffrax


class CountSteps(diffrax.AbstractStepSizeController):
    """Time goes by one in each step, and each is kept: the solver rejects sample by sample.

    Not `diffrax.ConstantStepSize`, which takes its step as `dt0`: diffrax checks that by calling
    Python, and JAX's persistent compilation cache keeps no program that does.
    """

    def wrap(self, direction: Any) -> "CountSteps":
        """Nothing depends on the direction of time."""
        del direction
        return self

    def init(self, terms, t0, t1, y0, dt0, args, func, error_order):
        """The first step, and no state."""
        del terms, t1, y0, dt0, args, func, error_order
        return t0 + 1, None

    def adapt_step_size(
        self, t0, t1, y0, y1_candidate, args, y_error, error_order, controller_state
    ):
        """Keep the step and make the next."""
        del t0, y0, y1_candidate, args, y_error, error_order, controller_state
        kept, made_jump = True, False
        return kept, t1, t1 + 1, made_jump, None, diffrax.RESULTS.successful
