"""docs/reference.md, from the code: `python -m mlops.reference` prints it, `make docs` writes it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Any

import typer

from pipelines import PIPELINES, function

EXIT_CODES = {
    0: "done",
    1: "something failed: a step, a server, a restart",
    2: "what was given is wrong: a file, an option, a setting",
    3: "refused, by policy or evidence",
    130: "interrupted",
}


def reference() -> str:
    """The whole page, in Markdown; the same code gives the same page."""
    from matchmaking.base.settings import VARIABLES
    from matchmaking.evidence.policy import DEFAULT_POLICY
    from matchmaking.reporting.report import FIELDS
    from mlops.cli.app import app

    policy = DEFAULT_POLICY.read_text()
    lines = [
        "# Reference",
        "",
        "Made from the code by `make docs`; don't edit it by hand.",
        "",
        "## Commands",
        "",
        *_commands(typer.main.get_command(app), "mlops"),
        "## Exit codes",
        "",
        *_table(("code", "meaning"), EXIT_CODES.items()),
        "## Settings",
        "",
        "Everything a command needs is an option of it. What an installation sets, it sets by environment variable:",
        "",
        *_table(("variable", "meaning", "default"), ((f"`{n}`", *said) for n, said in VARIABLES.items())),
        "## Parameters of the pipelines",
        "",
        "In the KFP UI, in `--arguments FILE`, and in the `arguments` of `manifests/schedules/schedules.yaml`.",
        "",
        *(line for name in PIPELINES for line in _parameters(name)),
        "## Policy",
        "",
        "`--policy FILE` takes any of these keys; what it leaves out is as here.",
        "",
        "```yaml",
        policy.rstrip(),
        "```",
        "",
        "## summary.json",
        "",
        "Beside every report, and what `--json` prints (by pipeline, for `run all`).",
        "",
        *_table(("field", "what it is"), ((f"`{name}`", text) for name, text in FIELDS.items())),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _parameters(pipeline: str) -> Iterator[str]:
    from docstring_parser import parse

    plain = function(pipeline).pipeline_func
    said = {each.arg_name: _text(each.description) for each in parse(plain.__doc__ or "").params}
    rows = []
    for name, parameter in inspect.signature(plain).parameters.items():
        needed = parameter.default is parameter.empty
        default = "needed" if needed else f"`{json.dumps(parameter.default)}`" if parameter.default != "" else ""
        rows.append((f"`{name}`", said[name], default))
    yield f"### {pipeline}"
    yield ""
    yield from _table(("parameter", "meaning", "default"), rows)


# a command of Click, which Typer brings its own copy of
def _commands(command: Any, name: str) -> Iterator[str]:
    if hasattr(command, "commands"):
        for child, each in command.commands.items():
            yield from _commands(each, f"{name} {child}")
        return
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option"]
    usage = " ".join(_argument(each) for each in arguments)
    yield f"### {name} {usage}".rstrip()
    yield ""
    yield " ".join((command.help or "").split("\f")[0].split())
    yield ""
    rows = [(f"`{_argument(each)}`", _text(each.help) + _choices(each)) for each in arguments]
    for option in options:
        names = "`" + "`, `".join([*option.opts, *option.secondary_opts]) + "`"
        rows.append((names, _text(option.help) + _choices(option) + _default(option)))
    if rows:
        yield from _table(("option", "meaning"), rows)


def _argument(argument: Any) -> str:
    name = (argument.metavar or argument.name or "").upper().strip("[]")
    return name if argument.required else f"[{name}]"


def _choices(option: Any) -> str:
    kind = option.type_descriptor.annotation
    if not (isinstance(kind, type) and issubclass(kind, Enum)):
        return ""
    return f" One of {', '.join(f'`{each.value}`' for each in kind)}."


def _default(option: Any) -> str:
    if option.required:
        return " Required."
    if option.is_flag or option.default in (None, "", False) or callable(option.default):
        return ""
    return f" Default: `{option.default}`."


def _text(text: str | None) -> str:
    return " ".join((text or "").split())


def _table(heads: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> Iterator[str]:
    yield "| " + " | ".join(heads) + " |"
    yield "|" + "---|" * len(heads)
    for row in rows:
        yield "| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |"
    yield ""


if __name__ == "__main__":
    print(reference(), end="")
