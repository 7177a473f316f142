"""What starting a step costs: from asking the engine for its container to the first line of our code.

    python -m benchmarks.startup [--runs 5] [--json FILE]

An empty step, put beside the image's components, runs by the command of compiled pipelines (`components.run`),
without a network: what it needs is in the image. `engine` is the time to make and start the container, `python` that
from its first process to the step's first line (the interpreter and KFP's executor). `first` is the first start of
all, with nothing of the image in memory yet if it was just built; the others are medians.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from contextlib import closing
from datetime import datetime
from pathlib import Path, PurePosixPath
from statistics import median
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from matchmaking.base.settings import image
from mlops.local.containers import check_engine, options
from pipelines.compile import RUN

if TYPE_CHECKING:
    from docker import DockerClient

KINDS = ("base", "trainer", "monitor")
# a step that says when it begins
STEP = """def first_line():
    import time

    print("first line at", time.time(), flush=True)
"""
INPUT = json.dumps({"outputs": {"outputFile": "/tmp/executor_output.json"}})
COMMAND = [*RUN, "first_line", "--executor_input", INPUT]


def components(client: DockerClient, kind: str) -> PurePosixPath:
    """Where the components are in an image."""
    asked = [*RUN[:2], "-c", "import components; print(components.__path__[0])"]
    said = client.containers.run(image(kind), asked, remove=True, **options({}), network_mode="none")
    return PurePosixPath(said.decode().strip())


def measure(kind: str) -> dict[str, float]:
    """Starts one container and gives the seconds it took."""
    import docker
    from docker.types import Mount

    with closing(docker.from_env()) as client, tempfile.TemporaryDirectory() as folder:
        step = Path(folder) / "first_line.py"
        step.write_text(STEP)
        # the container's user may be another one
        step.chmod(0o644)
        place = str(components(client, kind) / step.name)
        shut_in = options({})
        shut_in["mounts"].append(Mount(target=place, source=str(step), type="bind", read_only=True))
        begin = time.time()
        container = client.containers.create(image(kind), COMMAND, **shut_in, network_mode="none")
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
