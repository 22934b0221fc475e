"""The same numbers on one device, on eight, and in two processes that compute together."""

import socket
from pathlib import Path

import numpy as np
import pytest

from experiments.runner.checkpoints import contents
from experiments.runner.devices import spread
from tests.experiments.commands import TWO_NETWORKS, finish, metadata, results, start


def arrays(folder: Path, network: str) -> list[np.ndarray]:
    """Everything that a run has computed: its states and its history."""
    _, found = contents(folder / "checkpoints" / network / "12")
    return found


def assert_same_numbers(folder: Path, expected: Path) -> None:
    for network in ("feedforward", "exact"):
        both = zip(arrays(folder, network), arrays(expected, network), strict=True)
        for found, wanted in both:
            # In other orders only the last digits may change.
            np.testing.assert_allclose(
                found.astype(float), wanted.astype(float), rtol=0, atol=1e-10
            )


@pytest.mark.timeout(900)
def test_eight_devices(tmp_path, cache, alone):
    status, errors = finish(start(tmp_path / "run", *TWO_NETWORKS, cache=cache, devices=8))
    assert status == 0, errors
    assert "exact: compiling for runs over 4 devices, test samples over 2" in errors
    assert "8 devices" in metadata(tmp_path / "run")["device"]
    assert_same_numbers(tmp_path / "run", alone)


@pytest.mark.timeout(900)
def test_two_processes(tmp_path, cache, alone):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        start(
            tmp_path / "run",
            *TWO_NETWORKS,
            "distributed.enabled=true",
            f"distributed.coordinator=127.0.0.1:{port}",
            "distributed.num_processes=2",
            f"distributed.process_id={number}",
            cache=cache,
        )
        for number in (0, 1)
    ]
    for process in processes:
        status, errors = finish(process)
        assert status == 0, errors
    assert "2 devices of 2 processes" in metadata(tmp_path / "run")["device"]
    assert_same_numbers(tmp_path / "run", alone)
    # One process has written.
    lines = results(tmp_path / "run")[0].count(b"\n")
    assert lines == results(alone)[0].count(b"\n")


@pytest.mark.parametrize(
    ("num_runs", "num_devices", "expected"),
    [
        (12, 4, "runs over 4 devices"),
        (12, 8, "runs over 6 devices; 2 idle, as they do not divide the runs"),
        (4, 8, "runs over 4 devices, test samples over 2"),
        (7, 4, "runs over 1 devices, test samples over 4"),
        (12, 1, "one device"),
    ],
)
def test_runs_lie_on_as_many_devices_as_divide_them(monkeypatch, num_runs, num_devices, expected):
    class Device:
        process_index = 0

    class Mesh:
        def __init__(self, grid, axes, axis_types):
            self.shape = dict(zip(axes, grid.shape, strict=True))

    monkeypatch.setattr("experiments.runner.devices.Mesh", Mesh)
    devices = tuple(Device() for _ in range(num_devices))
    assert str(spread(devices, num_runs=num_runs)) == expected
