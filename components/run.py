"""Runs one step in a pod of ours: `python -P -m components.run NAME --executor_input JSON`.

KFP's own way carries a component's source in the pipeline and writes it to a file that it imports. Our images hold the
components, so a compiled pipeline names them (see `pipelines.compile`): the function that runs is the one of the image.
What happens to it is the same: KFP's executor calls it, without the decorator, which is for those who make pipelines.
"""

from __future__ import annotations

import argparse
import ast
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a step on what KFP's launcher gives it.

    Raises:
        SystemExit: there is no such step, or it failed for a reason that it has told.
    """
    parser = argparse.ArgumentParser(prog="components.run")
    parser.add_argument("name", choices=names())
    parser.add_argument("--executor_input", required=True, type=json.loads)
    given = parser.parse_args(arguments)
    # before kfp is imported, which else brings its compiler along
    os.environ["_KFP_RUNTIME"] = "true"
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="[%(asctime)s %(levelname)s] %(message)s")
    from kfp.dsl.executor import Executor

    Executor(executor_input=given.executor_input, function_to_execute=function(given.name)).execute()


def names() -> list[str]:
    """The components there are; each is the function of its file's name."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py") if path != Path(__file__))


def function(name: str) -> Callable[..., Any]:
    """A component's plain function."""
    path = Path(__file__).with_name(f"{name}.py")
    tree = ast.parse(path.read_bytes(), str(path))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            node.decorator_list = []
    module: dict[str, Any] = {"__name__": f"components.{name}", "__file__": str(path)}
    # not this module's own future: KFP needs the annotations themselves
    exec(compile(tree, str(path), "exec", dont_inherit=True), module)
    found: Callable[..., Any] = module[name]
    return found


if __name__ == "__main__":
    main()
