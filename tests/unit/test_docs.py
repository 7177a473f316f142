"""The documents: every link and path in them exists, and the reference is what the code says."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from matchmaking.base import settings
from mlops.reference import reference

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
# what looks like a file of this repository: a path from a top-level folder, with no placeholder in it
PATHS = re.compile(
    r"`((?:matchmaking|components|pipelines|manifests|docker|tests|benchmarks|docs|requirements)/[\w./-]*)`"
)
VARIABLE = re.compile(r"""environ(?:\.get\(|\[)"((?:MLOPS|MLFLOW_TRACKING|LEGALAID)_\w+)""")


def _anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths_exist(page: Path) -> None:
    text = page.read_text()
    for target in LINK.findall(text):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in _anchors(place), f"{page.name} links to {target}"
    for path in PATHS.findall(text):
        assert (ROOT / path).exists(), f"{page.name} names {path}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = page.read_text()
    blocks = "\n".join(re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    named = re.findall(r"`make ([a-z-]+)", text) + re.findall(r"^make ([a-z-]+)", blocks, re.MULTILINE)
    assert set(named) <= targets


def test_the_reference_is_what_the_code_says() -> None:
    assert (ROOT / "docs/reference.md").read_text() == reference(), "make docs"


def test_every_variable_that_is_read_is_documented() -> None:
    listed = {name.strip() for names in settings.VARIABLES for name in names.split(",")}
    tracked = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    read = {name for path in tracked.stdout.split() for name in VARIABLE.findall((ROOT / path).read_text())}
    assert {"MLOPS_REGISTRY", "LEGALAID_DIR"} <= read
    assert read - {"MLOPS_TEST_INSTALL"} <= listed  # how make test-all asks for one more test
