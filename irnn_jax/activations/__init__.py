"""Activation functions: their values and slopes, one for all layers or one for each."""

from irnn_jax.activations.by_layer import ByLayer, along
from irnn_jax.activations.checks import ActivationLike, as_activation
from irnn_jax.activations.power_law import PowerLaw
from irnn_jax.activations.slopes import (
    Activation,
    accurate_slope,
    is_arithmetic,
    is_of_order_one,
    slope_bound,
    value_and_slope,
)

__all__ = [
    "Activation",
    "ActivationLike",
    "ByLayer",
    "PowerLaw",
    "accurate_slope",
    "along",
    "as_activation",
    "is_arithmetic",
    "is_of_order_one",
    "slope_bound",
    "value_and_slope",
]
