"""Runs can be shown without what runs them; and what is not installed is told in one line."""

import ast
import subprocess
import sys

import pytest

from tests.experiments.commands import ROOT

REPORT = sorted((ROOT / "experiments" / "report").glob("*.py"))
IMPORTS = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(f"experiments.report.{name}")
print(*(name for name in sys.modules if name.startswith("experiments.runner")))
"""
AS_A_FILE = """
import runpy, sys
sys.modules["hydra"] = None  # not to be found
sys.argv = ["experiments/xor.py"]
runpy.run_path("experiments/xor.py", run_name="__main__")
"""


def imported(path):
    """Every module, and every name of one, that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports would hide where they lead"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", REPORT, ids=[path.stem for path in REPORT])
def test_reports_know_nothing_of_the_runner(path):
    assert not [name for name in imported(path) if name.startswith("experiments.runner")]


def test_reports_do_not_import_the_runner_by_detours():
    names = [path.stem for path in REPORT if path.stem != "__init__"]
    assert "html" in names
    shown = subprocess.run(
        [sys.executable, "-c", IMPORTS, *names],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout == "\n"


@pytest.mark.parametrize("how", [("-m", "experiments.xor"), ("-c", AS_A_FILE)])
def test_what_is_not_installed_is_one_line(how):
    # -S: without any installed package, whatever is missing.
    options = ("-S",) if how[0] == "-m" else ()
    shown = subprocess.run(
        [sys.executable, *options, *how], cwd=ROOT, capture_output=True, text=True
    )
    assert shown.returncode == 1
    assert shown.stderr.count("\n") == 1
    assert 'pip install -e ".[experiments]"' in shown.stderr
    assert "hydra" in shown.stderr
