"""docs/architecture.md: its picture and its tables are what the code is."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/architecture.md").read_text()
PICTURE = PAGE.split("## The rooms")[1].split("```")[1]
# what every step uses, and what needn't be told as its way
AROUND = ("matchmaking.base", "matchmaking.tracking")


def python_files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """The modules of this project that a file imports, also inside its functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if (ROOT / (name.replace(".", "/") + ".py")).exists()}


def test_the_picture_shows_every_package_and_room() -> None:
    packages = re.findall(r"^(\w+)/", PICTURE, re.M)
    assert packages == ["mlops", "pipelines", "components", "matchmaking"]
    for package in ("mlops", "matchmaking"):
        rooms = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
        assert rooms == set(shown(package))


def shown(package: str) -> list[str]:
    """The rooms of a package, from above to below."""
    part = re.split(r"^\w+/", PICTURE.split(f"\n{package}/")[1], flags=re.M)[0]
    return re.findall(r"^[│▼]   (\w+)/", part, re.M)


def test_imports_go_downwards_as_the_picture_shows() -> None:
    order = ["mlops", "pipelines", "components", "matchmaking"]
    rooms = shown("matchmaking")
    wrong = []
    for package in order:
        for path in python_files(package):
            relative = path.relative_to(ROOT).parts
            for name in imported(path):
                to = name.split(".")
                if to[0] in order and order.index(to[0]) < order.index(package):
                    wrong.append((str(path), name))
                if (
                    package == to[0] == "matchmaking"
                    and relative[1] in rooms
                    and rooms.index(to[1]) < rooms.index(relative[1])
                ):
                    wrong.append((str(path), name))
    assert not wrong


def test_import_linter_holds_what_the_picture_shows() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    assert layers == [["mlops", "pipelines", "components", "matchmaking"], shown("matchmaking")]


def test_each_step_leads_where_its_row_says() -> None:
    rows = re.findall(r"^\| (\w+) \| `(components/\w+\.py)` \| (.*) \|$", PAGE, re.M)
    assert {component for _, component, _ in rows} == {
        f"components/{Path(name.replace('.', '/')).name}.py"
        for name in imported(ROOT / "pipelines/retrain.py")
        if name.startswith("components.")
    }
    others = re.findall(r"`(matchmaking/[\w/]+\.py)`", PAGE.split("fifteen steps more")[1].split("\n\n")[0])
    rows += [(Path(module).stem, f"components/{Path(module).stem}.py", f"`{module}`") for module in others]
    assert len(rows) == len([path for path in python_files("components") if path.stem not in ("__init__", "run")])
    for step, component, way in rows:
        used = {name for name in imported(ROOT / component) if name.startswith("matchmaking.")}
        told = {path.removesuffix(".py").replace("/", ".") for path in re.findall(r"`([\w/]+\.py)`", way)}
        assert told <= used, step
        # a step and the module it leads to carry one name
        assert step == Path(component).stem and step in {name.rsplit(".", 1)[1] for name in told}


def test_every_file_it_names_is_there() -> None:
    for path in re.findall(r"`((?:mlops|pipelines|components|matchmaking)/[\w/.]+)`", PAGE):
        assert (ROOT / path).exists(), path


def test_no_file_of_code_is_long_without_a_reason() -> None:
    for folder in ("matchmaking", "components", "pipelines", "mlops", "benchmarks", "tests"):
        for path in python_files(folder):
            lines = path.read_text().splitlines()
            assert len(lines) <= 400 or "400 lines" in "\n".join(lines[:12]), f"{path}: {len(lines)} lines"
