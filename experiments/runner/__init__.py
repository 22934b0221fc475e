"""Running experiments: configurations, training, checkpoints, records; here is what all use."""

from experiments.runner import training, vary
from experiments.runner.config import (
    Count,
    Counts,
    Epochs,
    Flag,
    MaybeCount,
    Network,
    Number,
    Numbers,
    Outputs,
    Positive,
    Range,
    Training,
    check,
)
from experiments.runner.curves import Curves, train_runs
from experiments.runner.entry import command
from experiments.runner.errors import BadConfig
from experiments.runner.evaluation import evaluate_in_chunks
from experiments.runner.history import stack
from experiments.runner.launch import Experiment
from experiments.runner.making import make
from experiments.runner.networks import (
    NetworkLike,
    activation_of,
    is_convolutional,
    laid_out,
    reads_out,
)
from experiments.runner.program import Train
from experiments.runner.recording import Recording
