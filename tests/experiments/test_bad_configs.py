"""What cannot be run as asked: one line, exit status 2, and nothing left behind."""

import os
import sys
from pathlib import Path

import pytest

from experiments import pendulum, xor
from experiments.runner import vary
from experiments.runner.errors import Stopped
from tests.experiments.conftest import QUIET

BAD = {
    "num_stepz=2": "Could not override 'num_stepz'",
    "model.hidden=[0]": "model.hidden must be a list of integers, each at least 1, got [0]",
    "batch_size=-6": "batch_size must be an integer, at least 1, got -6",
    "num_runs=many": "num_runs must be an integer, at least 1, got 'many'",
    "x64=3": "x64 must be true or false, got 3",
    "output_range=[1,0]": "output_range must be two numbers, the second one larger",
    "solver=foo": "Could not find 'solver/foo' Available options in 'solver': anderson",
    "solver.max_steps=-1": "solver: max_steps must be positive, got -1",
    "solver.max_steps=few": "solver: max_steps must be int, got 'few'",
    "solver._target_=irnn_jax.Nothing": "solver: Error locating target 'irnn_jax.Nothing'",
    "data.omega0=[2.0,1.0]": "data: omega0",
    "devices=100000": "devices=100000, but there are",
    "num_test=900000": "num_test=900000, but the data hold 800000 test samples",
    "resume=true": "holds no unfinished run of this configuration",
    "~num_runs": "num_runs",
    "networks.exact.recurrent=1": "networks.exact.recurrent must be true or false, got 1",
    "~model.hidden": "model.hidden is missing: it must be a list of integers, each at least 1",
    "networks.exact=3": "networks.exact must be a group of keys, got 3",
    "vary=3": "vary must be null or lists of numbers by their keys, got 3",
    "devices=few": "devices must be null or an integer, at least 1, got 'few'",
    "num_epochs=[": "no viable alternative",
}


def run(monkeypatch: pytest.MonkeyPatch, main, *overrides: str) -> int | str | None:
    """Call a command as a user does, and return its exit status."""
    monkeypatch.setattr(sys, "argv", ["experiment", *overrides, *QUIET])
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # put back what it changes
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    with pytest.raises(SystemExit) as exit_:
        main()
    return exit_.value.code


@pytest.mark.parametrize(("override", "words"), BAD.items(), ids=BAD)
def test_it_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, capsys, override, words):
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, pendulum.main, override) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("pendulum: error: ")
    assert words in errors
    assert errors.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["a file", "below a file", "read-only"])
def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch, capsys, kind):
    folder = tmp_path / "folder"
    if kind == "read-only":
        folder.mkdir(mode=0o500)
        # Root may write everywhere.
        monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    else:
        folder.write_text("")
    where = folder / "run" if kind == "below a file" else folder
    assert run(monkeypatch, xor.main, f"hydra.run.dir={where}") == 2
    errors = capsys.readouterr().err
    assert errors.startswith("xor: error: ")
    assert str(where) in errors
    assert errors.count("\n") == 1


def test_a_run_that_cannot_go_on_is_one_line_too(tmp_path, monkeypatch, capsys):
    def stop(*args: object, **kwargs: object) -> None:
        raise Stopped("the reason")

    monkeypatch.setattr(vary, "trainer", stop)
    assert run(monkeypatch, xor.main, f"hydra.run.dir={tmp_path}") == 1
    assert capsys.readouterr().err == "xor: error: the reason\n"


def test_a_bug_shows_its_trace(tmp_path, monkeypatch):
    def fail(*args: object, **kwargs: object) -> None:
        raise TypeError("a bug")

    monkeypatch.setattr(vary, "trainer", fail)
    monkeypatch.setattr(sys, "argv", ["experiment", *QUIET, f"hydra.run.dir={tmp_path}"])
    with pytest.raises(TypeError, match="a bug"):
        xor.main()


def test_an_interrupted_run_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    def interrupt(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(vary, "trainer", interrupt)
    assert run(monkeypatch, xor.main, f"hydra.run.dir={tmp_path}") == 130
    line = f"Interrupted; to go on: python -m experiments.xor hydra.run.dir={tmp_path}\n"
    assert capsys.readouterr().err == line


def test_a_sweep_runs_the_jobs_that_it_can(tmp_path, monkeypatch, capsys):
    sweep = ("-m", f"hydra.sweep.dir={tmp_path}", "num_seeds=0,1", "num_steps=2")
    status = run(monkeypatch, xor.main, *sweep, "~networks.exact", "~networks.semi")
    assert status == 2
    assert "num_seeds must be an integer, at least 1, got 0" in capsys.readouterr().err
    assert [path.name for path in Path(tmp_path).iterdir() if path.is_dir()] == ["1"]
    assert (tmp_path / "1" / "report.html").exists()
