"""How long each pipeline takes, how much of it is importing libraries, and how much memory its steps need.

    python -m benchmarks.pipelines [--rows 12000 --rows 120000 ...] [--data FILE --production DIR] [--json FILE]

Without --data it generates its data and bootstraps a production model. Each pipeline runs as users run it.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from matchmaking import production as bundles
from matchmaking.sample import generate_file
from pipelines.local import run_pipeline

console = Console()


def measure(name: str, data: Path, served: Path, work: Path) -> dict[str, Any]:
    """Runs one pipeline and gives its wall time, its steps' costs, and what they add up to."""
    arguments: dict[str, Any] = {"data": str(data), "production": str(served)}
    if name == "retrain":
        arguments["candidates"] = str(work / "candidates")
    begin = time.monotonic()
    outcome = run_pipeline(name, arguments, work)
    wall = time.monotonic() - begin
    if outcome.exit_code:
        raise SystemExit(f"{name} failed: {outcome.summary['error']}")
    steps = outcome.summary["steps"]
    return {
        "pipeline": name,
        "wall_seconds": round(wall, 1),
        "import_share": round(sum(step["import_seconds"] for step in steps) / wall, 3),
        "peak_mb": max(step["peak_mb"] for step in steps),
        "steps": steps,
    }


def main(
    rows: Annotated[list[int] | None, typer.Option(help="Sizes to measure at.")] = None,
    data: Annotated[Path | None, typer.Option(help="Measure on this dataset instead.")] = None,
    production: Annotated[Path | None, typer.Option(help="The production folder that goes with it.")] = None,
    pipeline: Annotated[list[str] | None, typer.Option(help="Which pipelines.")] = None,
    out: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Measures retrain, evaluate and monitor."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        sets: list[tuple[str, Path, Path]] = []
        if data and production:
            sets.append((data.name, data, production))
        else:
            served = _bootstrap(base)
            for count in rows or [12_000, 120_000, 1_200_000]:
                path = base / f"{count}.csv"
                generate_file(path, count, seed=0)
                sets.append((f"{count:,} rows", path, served))
        # opening MLflow's database for the first time is paid once per work folder, not once per run
        console.print("first run, not counted (it creates MLflow's database)")
        measure("evaluate", sets[0][1], sets[0][2], base / "work")
        for label, path, served in sets:
            for name in pipeline or ["retrain", "evaluate", "monitor"]:
                console.print(f"{name} on {label} ...")
                results.append({"data": label, **measure(name, path, served, base / "work")})
    _show(results)
    if out:
        out.write_text(json.dumps(results, indent=1))


def _bootstrap(base: Path) -> Path:
    first = base / "first.csv"
    generate_file(first, 3_000, seed=1000)
    outcome = run_pipeline(
        "retrain",
        {"data": str(first), "production": "", "candidates": str(base / "first"), "algorithm": "dense"},
        base / "work",
    )
    package = Path(outcome.summary["candidate_uri"])
    assert bundles.present(package)
    return package


def _show(results: list[dict[str, Any]]) -> None:
    for result in results:
        table = Table(title=f"{result['pipeline']}, {result['data']}", title_justify="left")
        for column in ("step", "wall s", "share", "imports s", "peak MB"):
            table.add_column(column, justify="left" if column == "step" else "right")
        for step in result["steps"]:
            table.add_row(
                step["step"],
                f"{step['wall_seconds']:.1f}",
                f"{step['wall_seconds'] / result['wall_seconds']:.0%}",
                f"{step['import_seconds']:.1f}",
                f"{step['peak_mb']:.0f}",
            )
        table.add_section()
        total = sum(step["import_seconds"] for step in result["steps"])
        share = f"{total:.1f} ({result['import_share']:.0%})"
        table.add_row("whole run", f"{result['wall_seconds']:.1f}", "100%", share, f"{result['peak_mb']:.0f}")
        console.print(table)


if __name__ == "__main__":
    typer.run(main)
