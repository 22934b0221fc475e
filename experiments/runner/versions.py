"""What a number may depend on besides its configuration."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import jax

from experiments.runner.devices import Devices

PACKAGES = ("irnn_jax", "jax", "jaxlib", "diffrax", "optax", "equinox", "numpy", "matplotlib")


def versions() -> dict[str, str]:
    """Of Python and of everything a number may depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "from source"
    return found


def device(devices: Devices) -> str:
    """What it runs on, for instance "cpu, 8 cores"."""
    first, *others = devices
    name = f"cpu, {os.cpu_count()} cores"
    if first.platform != "cpu":
        name = f"{first.device_kind} ({first.platform})"
    processes = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return f"{name}, {1 + len(others)} devices{processes}" if others else name


def git_version() -> str | None:
    """The commit of the code, with "+changes" if files differ from it; None without git."""
    root = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        command = ("git", "-C", str(root), *arguments)
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
