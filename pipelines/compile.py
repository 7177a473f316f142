"""Compiling the pipelines to KFP's intermediate representation.

What is compiled is what runs in a cluster, where each step's component and source stand in the Workflow several times:
in its own arguments, in those of the step's driver, and in the pod's description, which is kept three times. Kubernetes
limits a Workflow's size, so the descriptions that the components' docstrings give stay behind. Those of the pipeline's
own parameters are for the UI's form, and go with it.
"""

from __future__ import annotations

import ast
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matchmaking.errors import cannot_write

PIPELINES = ("retrain", "evaluate", "monitor", "promote")


def compile_all(out: Path) -> list[Path]:
    """Writes `<pipeline>.yaml` for each pipeline into a folder; the same code gives the same bytes."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(f"--out {out}", error) from error
    paths = [out / f"{name}.yaml" for name in PIPELINES]
    for path in paths:
        path.write_text(compile_pipeline(path.stem), encoding="utf-8")
    return paths


def compile_pipeline(name: str) -> str:
    """One pipeline as YAML: the pipeline, and as a second document what its steps carry in Kubernetes."""
    from importlib import import_module

    from kfp.compiler import Compiler

    from pipelines.pods import retried

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # of image names without "python"
        warnings.simplefilter("ignore")
        pipeline = getattr(import_module(f"pipelines.{name}"), name)
        path = Path(folder) / "pipeline.yaml"
        with _undescribed(pipeline), retried(pipeline):
            Compiler().compile(pipeline, str(path))
        return path.read_text(encoding="utf-8")


@contextmanager
def _undescribed(pipeline: Any) -> Iterator[None]:
    """For as long as it lasts, a pipeline's components have no descriptions and their sources no docstrings."""
    spec = pipeline.pipeline_spec
    whole = type(spec)()
    whole.CopyFrom(spec)
    for component in spec.components.values():
        for part in (component.input_definitions, component.output_definitions):
            for each in (*part.parameters.values(), *part.artifacts.values()):
                each.ClearField("description")
    for executor in spec.deployment_spec["executors"].values():
        command = executor["container"]["command"]
        command[len(command) - 1] = _without_docstring(command[len(command) - 1])
    try:
        yield
    finally:
        spec.CopyFrom(whole)


def _without_docstring(source: str) -> str:
    """A component's source without its function's docstring."""
    function = next(node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef))
    if ast.get_docstring(function) is None:
        return source
    lines, first = source.splitlines(keepends=True), function.body[0]
    return "".join(lines[: first.lineno - 1] + lines[first.end_lineno :])
