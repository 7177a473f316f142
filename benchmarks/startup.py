"""What starting a step costs: from asking the engine for its container to the first line of our code.

    python -m benchmarks.startup [--runs 5] [--json FILE]

An empty step runs in each image as pipelines run theirs, without a network: what it needs is in the image.
`engine` is the time to make and start the container, `python` that from its first process to the step's first line
(the interpreter and KFP's executor). `first` is the first start of all, with nothing of the image in memory yet if
it was just built; the others are medians.
"""

from __future__ import annotations

import json
import re
import time
from contextlib import closing
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from kfp import dsl
from rich.console import Console
from rich.table import Table

from matchmaking.settings import image
from pipelines.containers import check_engine, options

KINDS = ("base", "trainer", "monitor")


@dsl.component(base_image=image("base"), install_kfp_package=False)
def first_line():
    """A step that says when it begins."""
    import time

    print("first line at", time.time(), flush=True)


def command() -> list[str]:
    """The command of the step as KFP has it."""
    container = first_line.pipeline_spec.deployment_spec["executors"]["exec-first-line"]["container"]
    executor_input = json.dumps({"outputs": {"outputFile": "/tmp/executor_output.json"}})
    arguments = [executor_input if each == "{{$}}" else each for each in container["args"]]
    return [*container["command"], *arguments]


def measure(kind: str) -> dict[str, float]:
    """Starts one container and gives the seconds it took."""
    import docker

    with closing(docker.from_env()) as client:
        begin = time.time()
        container = client.containers.create(image(kind), command(), **options({}), network_mode="none")
        try:
            container.start()
            container.wait()
            container.reload()
            started = datetime.fromisoformat(container.attrs["State"]["StartedAt"][:26] + "+00:00").timestamp()
            output = container.logs().decode()
            if not (found := re.search(r"first line at ([\d.]+)", output)):
                raise SystemExit(f"{image(kind)}: the step did not run: {output}")
            line = float(found[1])
        finally:
            container.remove(force=True)
    return {"engine": started - begin, "python": line - started, "total": line - begin}


def main(
    runs: Annotated[int, typer.Option(min=1, help="How often each image is started, after the first time.")] = 5,
    out: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Measures each image that steps run in."""
    check_engine(image(kind) for kind in KINDS)
    table = Table(title="seconds from the start to the first line of our code", title_justify="left")
    for column in ("image", "first", "engine", "python", "total"):
        table.add_column(column, justify="left" if column == "image" else "right")
    results = {}
    for kind in KINDS:
        first, *others = [measure(kind) for _ in range(runs + 1)]
        found = {name: round(median(each[name] for each in others), 3) for name in first}
        results[kind] = {"first": round(first["total"], 3), **found}
        table.add_row(image(kind), *(f"{value:.2f}" for value in results[kind].values()))
    Console().print(table)
    if out:
        out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    typer.run(main)
