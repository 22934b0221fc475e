"""The data sets of the paper: the XOR table and the damped oscillator."""

from irnn_jax.data.oscillator import Oscillator, OscillatorData, trajectory
from irnn_jax.data.xor import patterns

__all__ = ["Oscillator", "OscillatorData", "patterns", "trajectory"]
