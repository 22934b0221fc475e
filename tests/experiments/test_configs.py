"""Every YAML file composes, and what it names can be made."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from experiments.runner.entry import CONFIGS
from experiments.runner.making import make
from experiments.runner.resuming import what_is_run

ENTRIES = ("scalar_neuron", "xor", "pendulum", "reproduce", "capacity", "choices", "study")
EXPERIMENTS = {"paper_solver": ("xor", "pendulum", "scalar_neuron"), "pendulum_full": ("pendulum",)}


def options(group: str) -> list[str]:
    return sorted(path.stem for path in Path(CONFIGS, group).glob("*.yaml"))


def composed(entry: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(CONFIGS, version_base=None):
        return compose(entry, overrides=list(overrides))


@pytest.mark.parametrize("entry", ENTRIES)
def test_entries_compose(entry):
    assert composed(entry).name == entry


@pytest.mark.parametrize("solver", options("solver"))
def test_solvers_are_hashable(solver):
    made = make(composed("xor", f"solver={solver}").solver)
    assert hash(made) == hash(made)


# With settings of their own, which their names or comments say.
OF_THEIR_OWN = {"euler", "flow", "picard", "pseudo_transient_cautious", "runge_kutta4"}


@pytest.mark.parametrize("solver", sorted(set(options("solver")) - OF_THEIR_OWN))
def test_what_is_listed_for_a_solver_are_its_defaults(solver):
    made = make(composed("xor", f"solver={solver}").solver)
    assert made == type(made)()


@pytest.mark.parametrize("gradient", options("gradient"))
def test_gradients_are_hashable(gradient):
    config = composed("xor", f"gradient@networks.exact.gradient={gradient}")
    made = make(config.networks.exact.gradient)
    assert hash(made) == hash(made)


@pytest.mark.parametrize("optimizer", options("optimizer"))
def test_optimizers(optimizer):
    made = make(composed("xor", f"optimizer={optimizer}").optimizer)
    assert callable(made.update)


def test_data_and_models():
    assert options("data") == ["digits", "oscillator", "xor"]
    assert make(composed("pendulum").data).num_test == 800_000
    x, target = make(composed("xor").data)
    assert x.shape == target.shape == (4, 2)
    assert {name: composed("xor", f"model={name}").model.hidden for name in options("model")} == {
        "conv": [8, 16],
        "deep": [20, 20],
        "one_layer": [],
        "two_layer": [5],
        "two_layer_certified": [5],
    }


def test_losses_are_functions():
    for loss in options("loss"):
        assert callable(make(composed("study", f"loss={loss}").loss))


@pytest.mark.parametrize("launch", options("launch"))
def test_launchers_are_chosen_by_a_word(launch):
    with initialize_config_dir(CONFIGS, version_base=None):
        config = compose("xor", overrides=[f"+launch={launch}"], return_hydra_config=True)
    assert "BasicLauncher" not in config.hydra.launcher._target_


def test_every_preset_is_tested():
    assert set(options("experiment")) == set(EXPERIMENTS)


@pytest.mark.parametrize(
    ("preset", "entry"), [(p, entry) for p, entries in EXPERIMENTS.items() for entry in entries]
)
def test_presets_apply(preset, entry):
    assert composed(entry, f"+experiment={preset}") != composed(entry)
    nested = composed("reproduce", f"+experiment@{entry}={preset}")
    assert nested[entry] == what_is_run(composed(entry, f"+experiment={preset}"))
