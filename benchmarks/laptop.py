"""What `mlops run retrain` and `mlops run evaluate` take on one machine, whole processes, by how steps begin.

    python -m benchmarks.laptop [--data FILE --production DIR] [--times 3]

In turn: the plain scripts of `benchmarks.yardstick`, which do much less, in a process each; steps started anew, as in a
cluster's pods; steps forked from warm processes, as `mlops run` does it; and `mlops run all` (retrain, evaluate and
monitor). The work folder is new each time, so MLflow's database is made each time too. Without --data it generates
12,000 pairs and bootstraps a production model.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from mlops.local import warm

PIPELINES = ("retrain", "evaluate")
HOW = ("script", "anew", "forked")


def once(pipeline: str, how: str, data: Path, production: Path, work: Path) -> None:
    """One run, in this process."""
    with nullcontext() if how == "anew" else warm.Nursery(pipeline) as nursery:
        from mlops.local.run import run_pipeline

        arguments = {"data": str(data), "production": str(production)}
        if pipeline == "retrain":
            arguments["candidates"] = str(work / "candidates")
        outcome = run_pipeline(pipeline, arguments, work, nursery=nursery)
    if outcome.exit_code:
        raise SystemExit(f"{pipeline} failed: {outcome.summary['error']}")


def main(
    data: Annotated[Path | None, typer.Option(help="A dataset.")] = None,
    production: Annotated[Path | None, typer.Option(help="The production folder that goes with it.")] = None,
    times: Annotated[int, typer.Option(min=1, help="How often.")] = 3,
) -> None:
    """Prints the seconds of each run, and medians."""
    found: dict[tuple[str, str], list[float]] = {(how, pipeline): [] for how in HOW for pipeline in PIPELINES}
    found["forked", "all"] = []
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        if data is None or production is None:
            from benchmarks.pipelines import bootstrap
            from matchmaking.data.sample import generate_file

            data = base / "pairs.csv"
            generate_file(data, 12_000, seed=0)
            production = bootstrap(base)
        for number in range(times):
            for how, pipeline in found:
                work = base / f"{how}-{pipeline}-{number}"
                given = [pipeline, how, str(data.resolve()), str(production.resolve()), str(work)]
                begin = time.monotonic()
                whole = [sys.executable, "-c", "from mlops.cli.app import main; main()", "run", "all", "--json"]
                whole += ["--data", given[2], "--production", given[3], "--work-dir", given[4]]
                ours = [sys.executable, "-m", "benchmarks.laptop", "once", *given]
                script = [sys.executable, "-m", "benchmarks.yardstick", pipeline, *given[2:]]
                # MLflow and TensorFlow tell a plain script's reader much
                subprocess.run(
                    whole if pipeline == "all" else script if how == "script" else ours,
                    check=True,
                    stdout=subprocess.DEVNULL if pipeline == "all" else None,
                    stderr=subprocess.DEVNULL if how == "script" or pipeline == "all" else None,
                )
                found[how, pipeline].append(time.monotonic() - begin)
                print(f"{pipeline:<10}{how:<8}{found[how, pipeline][-1]:6.1f} s", flush=True)
    for how in HOW:
        medians = [statistics.median(found[how, pipeline]) for pipeline in PIPELINES]
        each = ", ".join(f"{pipeline} {median:.1f} s" for pipeline, median in zip(PIPELINES, medians, strict=True))
        print(f"{how:<8}{each}; together {sum(medians):.1f} s (medians of {times})")
    print(f"run all {statistics.median(found['forked', 'all']):.1f} s")


if __name__ == "__main__":
    if sys.argv[1:2] == ["once"]:
        once(*sys.argv[2:4], *map(Path, sys.argv[4:7]))
    else:
        typer.run(main)
