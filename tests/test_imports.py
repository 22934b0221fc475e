"""Who imports whom: no circle, and few floors from the ground to the public names."""

import ast
import functools
import graphlib
from pathlib import Path

import irnn_jax

ROOT = Path(irnn_jax.__file__).parent
FLOORS = 9


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(path): path for path in ROOT.rglob("*.py")}


def _imported(path: Path) -> set[str]:
    """What a module imports of the package when it is imported; `if TYPE_CHECKING` is never so."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            # A name of a module, or a module of a package.
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inside & MODULES.keys()) or {node.module or ""}
    return found & MODULES.keys()


# What the public names gather, every module is below.
GRAPH = {name: _imported(path) for name, path in MODULES.items() if name != ROOT.name}


# Of folders, and of the files beside them.
FOLDERS: dict[str, set[str]] = {}
for name, below in GRAPH.items():
    here = name.split(".")[1]
    FOLDERS.setdefault(here, set()).update({other.split(".")[1] for other in below} - {here})


@functools.cache
def _floor(folder: str) -> int:
    return 1 + max(map(_floor, FOLDERS[folder]), default=0)


def test_the_graph_is_that_of_the_package():
    assert len(GRAPH) > 40
    assert "irnn_jax.problem" in GRAPH["irnn_jax.solvers.base"]
    assert "irnn_jax.equilibrium" not in GRAPH["irnn_jax.status"]


def test_there_is_no_circle():
    for graph in (GRAPH, FOLDERS):
        order = list(graphlib.TopologicalSorter(graph).static_order())  # raises at a circle
        assert set(order) == set(graph)


def test_there_are_few_floors():
    path = [max(FOLDERS, key=_floor)]
    while FOLDERS[path[-1]]:
        path.append(max(FOLDERS[path[-1]], key=_floor))
    assert len(path) <= FLOORS, " <- ".join(path)


def test_arithmetic_knows_nothing_of_what_is_built_on_it():
    """`xla` and `linalg` import no mathematics of networks; problems no solvers or gradients."""
    for name, below in GRAPH.items():
        folder = name.split(".")[1]
        allowed = {"xla": {"xla"}, "linalg": {"linalg", "xla"}}.get(folder)
        if allowed is not None:
            assert {other.split(".")[1] for other in below} <= allowed, name
        if name == "irnn_jax.problem" or folder in ("networks", "iterations"):
            upper = {"solvers", "gradients", "equilibrium", "fixed_point", "implicit", "training"}
            assert not {other.split(".")[1] for other in below} & upper, name
