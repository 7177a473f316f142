"""What a cluster runs of a step, made from what kfp.local would run of it."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import yaml

from pipelines.compile import compile_pipeline


@cache
def _spec(pipeline: str) -> Any:
    return next(yaml.safe_load_all(compile_pipeline(pipeline)))


def as_compiled(pipeline: str, command: list[str]) -> list[str]:
    """The command of the compiled pipeline for a step, with the input that it would be given there.

    Args:
        pipeline: its name.
        command: kfp.local's for the step; its input has what the compiled component no longer knows, too.
    """
    name = command[command.index("--function_to_execute") + 1]
    given = json.loads(command[command.index("--executor_input") + 1])
    spec = _spec(pipeline)
    known: set[str] = set()
    for component in spec["components"].values():
        if (label := component.get("executorLabel")) is None:
            continue
        container = spec["deploymentSpec"]["executors"][label]["container"]
        if container["args"][0] == name:
            found = container
            inputs = component.get("inputDefinitions", {})
            known |= {*inputs.get("parameters", {}), *inputs.get("artifacts", {})}
    for kind in ("parameterValues", "artifacts"):
        values = given.get("inputs", {}).get(kind, {})
        given.get("inputs", {})[kind] = {each: value for each, value in values.items() if each in known}
    arguments = [json.dumps(given) if each == "{{$}}" else each for each in found["args"]]
    return [*found["command"], *arguments]
