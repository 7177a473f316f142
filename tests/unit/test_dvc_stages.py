"""dvc.yaml's stages depend on all the code that makes their numbers."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
# steps that report or store what others have found
NO_NUMBERS = {"promote", "report"}
# the rooms that move, record and word things: no number depends on them
AROUND = {"base", "storage", "tracking", "release", "reporting"}


def imported(path: str) -> set[str]:
    """The files of this project that one imports, also inside its functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {f"{name.replace('.', '/')}.py" for name in names}
    return {name for name in found if name.startswith(("matchmaking/", "components/")) and (ROOT / name).exists()}


@pytest.mark.parametrize("stage", ["retrain", "evaluate", "monitor"])
def test_a_stage_depends_on_the_code_of_its_steps(stage: str) -> None:
    steps = {name for name in imported(f"pipelines/{stage}.py") if name.startswith("components/")}
    todo = [name for name in steps if Path(name).stem not in NO_NUMBERS]
    assert todo
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        if name not in seen and not (name.startswith("matchmaking/") and name.split("/")[1] in AROUND):
            seen.add(name)
            todo += imported(name)
    rooms = {name.rsplit("/", 1)[0] for name in seen if name.startswith("matchmaking/")}
    listed = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][stage]["deps"]
    assert {name for name in listed if name.startswith("matchmaking/")} == rooms
