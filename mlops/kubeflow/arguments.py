"""A pipeline's arguments as files give them: `mlops submit --arguments FILE`, and the blocks of schedules.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from matchmaking.base.errors import InputError
from pipelines.memory import in_bytes

# KFP's word for a parameter's type: what a file may give for it, and ours
_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "STRING": ((str,), "text"),
    "NUMBER_INTEGER": ((int,), "a whole number"),
    "NUMBER_DOUBLE": ((int, float), "a number"),
    "BOOLEAN": ((bool,), "true or false"),
}


@cache
def parameters(pipeline: str) -> dict[str, str]:
    """KFP's type of each parameter of a pipeline, by name."""
    from mlops.kubeflow.submit import compiled

    spec = next(yaml.safe_load_all(compiled(pipeline)))
    return {name: found["parameterType"] for name, found in spec["root"]["inputDefinitions"]["parameters"].items()}


def read_arguments(pipeline: str, path: Path) -> dict[str, Any]:
    """The arguments in a YAML file: a mapping of the pipeline's parameters.

    Raises:
        InputError: it can't be read, or isn't such a one.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--arguments {path} can't be read: {getattr(error, 'strerror', None) or error}") from error
    return parse_arguments(pipeline, text, f"--arguments {path}")


def parse_arguments(pipeline: str, text: str, source: str) -> dict[str, Any]:
    """The arguments in a text; a policy may be given as the mapping that it is, and is text for the pipeline.

    Args:
        pipeline: whose.
        text: YAML; empty for no arguments.
        source: where it is from, for messages.

    Raises:
        InputError: it isn't YAML, names what is no parameter of the pipeline, or gives it a value of another type; or
            the policy isn't one.
    """
    try:
        found = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise InputError(f"{source} is not YAML: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(found, dict):
        raise InputError(f"{source}: parameters of {pipeline}, a line each, as in 'seed: 7'")
    known = parameters(pipeline)
    for name, value in found.items():
        if name not in known:
            raise InputError(f"{source}: {name} is no parameter of {pipeline}; those are {', '.join(known)}")
        if name == "policy":
            found[name] = _policy(value, source)
            continue
        if name == "memory":
            in_bytes(str(value), f"{source}: {name}")
        types, meant = _TYPES[known[name]]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise InputError(f"{source}: {name} is {meant}, not {value!r}")
    return found


def laid_over(chosen: Mapping[str, Any], given: set[str], found: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with those of a file laid over them, but for what was given on the command line."""
    return {**chosen, **{name: value for name, value in found.items() if name not in given}}


def _policy(value: Any, source: str) -> str:
    import tempfile

    from matchmaking.evidence.policy import load_policy

    text = value if isinstance(value, str) else yaml.safe_dump(value, sort_keys=False)
    if text.strip():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "policy.yaml"
            path.write_text(text, encoding="utf-8")
            try:
                load_policy(path)
            except InputError as error:
                raise InputError(f"{source}: {str(error).replace(str(path), 'policy')}") from None
    return text
