"""What every test shares: float64 and seeded keys."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jaxtyping
import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

jax.config.update("jax_enable_x64", True)

# Each new shape compiles, which takes seconds: no deadline, and few examples. In CI the same ones
# every time.
settings.register_profile("default", deadline=None, max_examples=12, print_blob=True)
settings.register_profile("ci", settings.get_profile("default"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


# Modules that share a fixture of half a minute, and that fixture.
SHARED = {
    "test_devices": "alone",
    "test_disk": "alone",
    "test_kill": "alone",
    "test_finished": "reproduced",
    "test_reproduce": "reproduced",
}


class ModuleByModule(LoadScopeScheduling):
    """A worker gets a module, and those that need the same long run with it."""

    def _split_scope(self, nodeid: str) -> str:
        module = super()._split_scope(nodeid)
        return SHARED.get(Path(module).stem, module)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ModuleByModule | None:
    """With `--dist loadscope`."""
    return ModuleByModule(config, log) if config.getvalue("dist") == "loadscope" else None


def _listed() -> dict[Path, set[str]]:
    """The tests in `slow.txt`, by their file."""
    here, tests, names = Path(__file__).parent, {}, set()
    for line in (here / "slow.txt").read_text().splitlines():
        if line.startswith(" "):
            names.add(line.strip())
        elif not line.startswith("#"):
            names = tests.setdefault(here / line, set())
    return tests


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what `slow.txt` lists. A name that is listed, and there no more, is an error."""
    listed = _listed()
    found: dict[Path, set[str]] = {}
    for item in items:
        found.setdefault(item.path, set()).add(item.name)
        if item.name in listed.get(item.path, ()):
            item.add_marker(pytest.mark.slow)
    for path, names in found.items():
        # Of a single test that was asked for the others are not collected.
        missing = listed.get(path, set()) - names
        if missing and len(names) > 1:
            raise pytest.UsageError(f"slow.txt lists what {path.name} does not have: {missing}")


@pytest.fixture(scope="module", autouse=True)
def _forget_programs() -> Iterator[None]:
    """Each compiled program takes some of the memory maps that a process may have; so does LLVM."""
    yield
    jax.clear_caches()


@pytest.fixture
def getkey() -> Callable[[], jax.Array]:
    """A new JAX key at each call, the same ones in each run of a test."""

    def keys() -> Iterator[jax.Array]:
        key = jax.random.key(2357)
        while True:
            key, fresh = jax.random.split(key)
            yield fresh

    return keys().__next__


@pytest.fixture
def without_runtime_types() -> Iterator[None]:
    """The library as its users run it: the suite's checks of annotations would raise first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def strict_promotion() -> Iterator[None]:
    """Operands of different dtypes raise, instead of being promoted."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def as_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is only worth it on a CPU is done on any device."""
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
