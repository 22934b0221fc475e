"""Examples are code: every Python block of the README and of the guides is run."""

import re
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    "README.md",
    "docs/choosing.md",
    "docs/convolutional.md",
    "docs/networks.md",
    "docs/activations.md",
    "docs/choosing.md",
    "docs/training.md",
    "docs/wellposed.md",
]
BLOCKS = [
    pytest.param(page, block, id=f"{page}-{number}")
    for page in PAGES
    for number, block in enumerate(
        re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    )
]


@pytest.mark.parametrize(("page", "block"), BLOCKS)
def test_example_runs(page, block):
    namespace = {}
    exec(compile(block, page, "exec"), namespace)
    results = [v for v in namespace.values() if isinstance(v, jax.Array | tuple)]
    assert results, "an example shows a result"
    for leaf in jax.tree.leaves(results):
        if isinstance(leaf, jax.Array) and jax.numpy.issubdtype(leaf.dtype, jax.numpy.floating):
            assert jax.numpy.isfinite(leaf).all()


def test_every_page_is_covered():
    assert {param.values[0] for param in BLOCKS} == set(PAGES)


def test_links_between_pages_lead_somewhere():
    for page in [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").glob("*.md")),
    ]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
