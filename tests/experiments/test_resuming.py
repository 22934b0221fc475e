"""Going on in a folder: what is kept, what is refused, and which folder it is."""

import io
import json
import os
import re

import pytest
from omegaconf import DictConfig, OmegaConf

from experiments import xor
from experiments.runner import metadata, training
from experiments.runner.errors import BadConfig
from experiments.runner.progress import Display
from experiments.runner.recording import Recording
from experiments.runner.resuming import refuse_another
from tests.experiments.conftest import run_main

SMALL = ("num_seeds=2", "num_steps=40", "~networks.exact", "~networks.semi")


def record(folder, lines=(), error=None, **changes):
    """A run that writes rows, and fails if it is told to."""
    config = OmegaConf.create({"name": "test", "a": {"b": 1, "c": [1, 2]}} | changes)
    said, new = io.StringIO(), []
    try:
        with Recording(folder, config, command="a command", display=Display(said)) as recording:
            new = [recording.row(number=line) for line in lines]
            if error is not None:
                raise error
    except KeyboardInterrupt:
        pass
    return new, said.getvalue()


def numbers(folder):
    return [
        json.loads(line)["number"] for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]


@pytest.mark.parametrize("cut", [0, 3])
def test_lines_that_are_there_are_not_written_again(tmp_path, cut):
    record(tmp_path, ["1", "2", "3"], KeyboardInterrupt())
    path = tmp_path / "metrics.jsonl"
    os.truncate(path, path.stat().st_size - cut)  # half a line, if cut
    new, _ = record(tmp_path, ["1", "2", "3", "4"])
    assert new == [False, False, cut > 0, True]
    assert numbers(tmp_path) == ["1", "2", "3", "4"]


def test_lines_that_do_not_come_again_are_dropped(tmp_path):
    record(tmp_path, ["1", "2", "3"], KeyboardInterrupt())
    record(tmp_path, ["1", "other"])
    assert numbers(tmp_path) == ["1", "other"]


def test_the_status_is_of_all_attempts(tmp_path):
    record(tmp_path, error=KeyboardInterrupt())
    first = json.loads((tmp_path / "metadata.json").read_text())
    record(tmp_path)
    second = json.loads((tmp_path / "metadata.json").read_text())
    assert (first["status"], second["status"]) == ("INTERRUPTED", "DONE")
    assert second["started"] == first["started"]
    assert len(second["resumed"]) == 1
    assert second["wall_seconds"] >= first["wall_seconds"]


def test_another_configuration_is_refused_and_the_keys_are_named(tmp_path):
    record(tmp_path, ["1"], KeyboardInterrupt())
    words = "another configuration (a.b: 1, now 2; a.d: not there, now 3)"
    with pytest.raises(BadConfig, match=re.escape(words)):
        record(tmp_path, a={"b": 2, "c": [1, 2], "d": 3})
    assert json.loads((tmp_path / "metadata.json").read_text())["status"] == "INTERRUPTED"


def test_a_folder_in_use_is_refused(tmp_path):
    config = OmegaConf.create({"a": 1})
    with (
        Recording(tmp_path, config, command="a command"),
        pytest.raises(BadConfig, match="another process is writing"),
        Recording(tmp_path, config, command="a command"),
    ):
        pass


def each_damage(whole):
    """The file with each of its bytes changed in two bits, and cut after each of them."""
    for place in range(len(whole)):
        yield whole[:place]
        for bit in (0, 5):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << bit
            yield bytes(flipped)


def test_a_damaged_metadata_file_is_refused_in_one_line(tmp_path):
    record(tmp_path, ["1"], KeyboardInterrupt())
    path = tmp_path / "metadata.json"
    expected = metadata.read(tmp_path)
    said = []
    for damaged in each_damage(path.read_bytes()):
        path.write_bytes(damaged)
        try:  # a changed space says the same
            assert metadata.read(tmp_path) == expected
        except BadConfig as error:
            said.append(str(error))
    assert len(said) > 2.5 * path.stat().st_size
    assert all(line.startswith(f"{path} is damaged") and "\n" not in line for line in said)
    with pytest.raises(BadConfig, match="is damaged"):
        record(tmp_path, ["1"])


def test_a_damaged_configuration_is_refused_in_one_line(tmp_path):
    record(tmp_path, ["1"], KeyboardInterrupt())
    path = tmp_path / "config.yaml"
    whole = path.read_bytes()
    config = OmegaConf.load(path)
    assert isinstance(config, DictConfig)
    said = []
    for damaged in each_damage(whole):
        path.write_bytes(damaged)
        try:  # what is refused is another one, or none; what is not refused is the same one
            refuse_another(tmp_path, config)
        except BadConfig as error:
            said.append(str(error))
        else:
            assert OmegaConf.load(path) == config
    assert said
    assert not any("\n" in line for line in said)


def test_damaged_lines_are_written_again(tmp_path):
    record(tmp_path, ["1", "2", "3"], KeyboardInterrupt())
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    for damaged in (whole.replace(b"2", b"3"), whole[1:], whole.replace(b"\n", b" "), b"\xff"):
        path.write_bytes(damaged)
        record(tmp_path, ["1", "2", "3"], KeyboardInterrupt())
        assert path.read_bytes() == whole


def interrupted(folder, monkeypatch):
    """A run that was trained, and stopped before it was shown."""

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(xor, "present", stop)
        with pytest.raises(KeyboardInterrupt):
            run_main(xor.main, folder, *SMALL)
    assert json.loads((folder / "metadata.json").read_text())["status"] == "INTERRUPTED"


def test_what_is_trained_is_not_trained_again(tmp_path, monkeypatch, capsys):
    left_alone = run_main(xor.main, tmp_path / "alone", *SMALL)
    folder = tmp_path / "interrupted"
    interrupted(folder, monkeypatch)
    monkeypatch.setattr(training, "Program", None)
    capsys.readouterr()
    run_main(xor.main, folder, *SMALL)
    assert "xor feedforward: steps 40/40 from a checkpoint" in capsys.readouterr().err
    for name in ("metrics.jsonl", "summary.csv"):
        assert (folder / name).read_bytes() == (left_alone / name).read_bytes()
    run_main(xor.main, folder, *SMALL)
    assert capsys.readouterr().err == f"Done already: {folder / 'report.html'}\n"
    with pytest.raises(BadConfig, match="num_steps: 40, now 60"):
        run_main(xor.main, folder, *SMALL, "num_steps=60")


def test_resume_finds_the_newest_unfinished_run(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "runs" / "xor" / "first"
    interrupted(folder, monkeypatch)
    record(tmp_path / "runs" / "xor" / "another", error=KeyboardInterrupt())
    monkeypatch.chdir(tmp_path)
    # As on the command line, where the default folder is named after the time.
    monkeypatch.setattr("experiments.runner.launch.is_fixed", lambda: False)
    run_main(xor.main, folder.parent / "new", *SMALL, "resume=true")
    assert f"Goes on in {folder}" in capsys.readouterr().err
    assert json.loads((folder / "metadata.json").read_text())["status"] == "DONE"
    assert not (folder.parent / "new").exists()
