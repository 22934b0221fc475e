"""A study of a data set of one's own."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import irnn_jax as irnn
from experiments import study
from experiments.data.digits import digits
from experiments.losses import cross_entropy
from experiments.runner.errors import BadConfig
from experiments.runner.tensorboard import board
from tests.experiments.conftest import run_main
from tests.experiments.test_configs import composed
from tests.experiments.test_reproduce import rows
from tests.experiments.test_single import ONE_NETWORK

TINY = ("num_runs=2", "num_epochs=1", "steps_per_epoch=2", "model.hidden=[1]", *ONE_NETWORK)

RETURNED = {}


def returned():
    """What a test put there, as a user's own loader would return it."""
    return RETURNED["arrays"]


def arrays(**changes):
    x, y = np.linspace(0, 1, 12).reshape(6, 2), np.linspace(0, 1, 6)
    return tuple(({"x": x, "y": y, "test_x": x[:3], "test_y": y[:3]} | changes).values())


@pytest.fixture
def own(monkeypatch):
    monkeypatch.setitem(sys.modules, "my_data", sys.modules[__name__])
    return composed("study", "+data._target_=my_data.returned")


def test_three_lines_of_yaml_are_a_study(tmp_path, own):
    del own
    RETURNED["arrays"] = arrays()
    (tmp_path / "mine.yaml").write_text(
        "defaults: [study, _self_]\ndata: {_target_: my_data.returned}\nmodel: {hidden: [1]}\n"
    )
    flags = ("--config-dir", str(tmp_path), "--config-name", "mine")
    folder = run_main(study.main, tmp_path / "run", *TINY, flags=flags)
    (row,) = rows(folder)
    assert "test_accuracy" not in row
    assert 0 < float(row["test_error"]) < 1
    command = json.loads((folder / "metadata.json").read_text())["command"]
    assert command.startswith(f"python -m experiments.study --config-dir {tmp_path} --config-name")


def test_digits_are_classes():
    data = study.load(composed("study", "data=digits"))
    assert data.classes
    assert data.train[0].shape[1:] == (64,)
    assert len(data.train[0]) + len(data.test[0]) == 1797
    np.testing.assert_array_equal(data.test[1].sum(axis=1), 1)
    train_x, train_y, *_ = digits(seed=1)
    assert (train_x >= 0).all()
    assert (train_x <= 1).all()
    assert train_y.dtype.kind == "i"


def test_accuracy_counts_the_largest_output(own):
    labels = np.array([0, 1, 2])
    x = np.zeros((3, 2))
    RETURNED["arrays"] = (x, labels, x, labels)
    own.model.hidden = []
    data = study.load(own)
    train = study.make_train(own, own.networks.feedforward, data)
    # Answers 1 to everything: right for one of the three.
    layer = irnn.Layer(feedforward=jnp.zeros((3, 2)), lateral=None, bias=jnp.array([0.0, 3.0, 0.0]))
    test = jax.jit(train.evaluate)(irnn.Network(layers=(layer,)))
    assert test.accuracy == pytest.approx(1 / 3)
    assert test.converged == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"y": np.zeros(5)}, "6 train inputs, but 5 train targets"),
        ({"test_x": np.zeros((3, 4))}, "train and test samples differ in shape"),
        ({"y": np.linspace(0, 2, 6)}, r"targets must lie in \[0, 1\].*reach from 0 to 2"),
    ],
)
def test_arrays_that_do_not_fit(own, changes, words):
    RETURNED["arrays"] = arrays(**changes)
    with pytest.raises(BadConfig, match=words):
        study.load(own)


def test_no_data_is_one_clear_error(tmp_path):
    with pytest.raises(BadConfig, match="a study needs data: data=digits, or"):
        run_main(study.main, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_cross_entropy_stays_finite_where_a_sigmoid_saturates():
    output, target = jnp.array([0.0, 1.0, 0.25]), jnp.array([1.0, 1.0, 0.0])
    value, slope = jax.value_and_grad(cross_entropy)(output, target)
    eps = jnp.finfo(output.dtype).eps
    assert value == pytest.approx(float(-jnp.log(eps) - jnp.log(0.75)), rel=1e-6)
    assert jnp.isfinite(slope).all()
    assert slope[2] == pytest.approx(1 / 0.75)


def test_tensorboard_gets_the_mean_over_the_runs(tmp_path, monkeypatch):
    written = []

    class Writer:
        def __init__(self, folder):
            self.folder = folder

        def add_scalar(self, *scalar):
            written.append(scalar)

        def close(self):
            written.append("closed")

    monkeypatch.setattr("tensorboardX.SummaryWriter", Writer)
    with board(tmp_path) as sink:
        sink({"network": "exact", "epoch": 3, "test_error": np.array([1.0, 3.0, np.nan])})
        sink({"weight": 1.0})  # a row of an experiment without epochs
    assert written == [("test_error/exact", 2.0, 3), "closed"]


def test_tensorboard_writes_a_file(tmp_path):
    with board(tmp_path) as sink:
        sink({"network": "exact", "epoch": 1, "test_error": 0.5})
    (path,) = tmp_path.glob("events.out.tfevents.*")
    assert b"test_error/exact" in path.read_bytes()


def test_tensorboard_is_asked_for_by_name(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(BadConfig, match="pip install tensorboardX"), board(tmp_path):
        pass


MODELS = {
    "deep": ("model=deep", "model.hidden=[3,2]"),
    "conv": ("model=conv", "model.hidden=[2,3]", "batch_size=4"),
}


@pytest.mark.parametrize("name", MODELS)
def test_other_networks_by_configuration(name, tmp_path):
    tiny = [option for option in TINY if not option.startswith("model.")]
    options = (*tiny, *MODELS[name], "data=digits", "loss=softmax_cross_entropy")
    folder = run_main(study.main, tmp_path / "run", *options)
    (row,) = rows(folder)
    assert 0 < float(row["test_accuracy"]) < 1
    assert float(row["test_converged"]) == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("model=deep", "model.readout=cubic"), "model.readout must be null or linear"),
        (("model=conv", "model.readout=null"), "needs model.readout=linear"),
        (("model=deep", "model.hidden=[]"), "needs a hidden layer to read"),
    ],
)
def test_models_that_cannot_be_are_refused(overrides, message):
    config = composed("study", "data=digits", *overrides)
    with pytest.raises(BadConfig, match=message):
        study.load(config)


def test_images_of_another_size_are_refused():
    config = composed("study", "data=digits", "model=conv", "model.image=[28,28,1]")
    with pytest.raises(BadConfig, match="a sample has 64 numbers"):
        study.make_train(config, config.networks.feedforward, study.load(config))
