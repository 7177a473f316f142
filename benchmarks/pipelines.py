"""How long each pipeline takes, how much of it is importing libraries, and how much memory its steps need.

The memory is compared with what `pipelines.memory` has, by which runs in a cluster ask for it.

    python -m benchmarks.pipelines [--rows 12000 --rows 120000 ...] [--data FILE --production DIR] [--json FILE]

Without --data it generates its data and bootstraps a production model. Steps are started anew, as in a cluster's pods
(on one machine `mlops run` forks them: `benchmarks.laptop`). On a machine that does other things as well, the processor
time of a run tells more than its wall time.
"""

from __future__ import annotations

import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from matchmaking.data.sample import generate_file
from matchmaking.model import production
from mlops.local.run import run_pipeline
from pipelines.memory import NEEDS, ROW_BYTES

console = Console()


def measure(name: str, data: Path, served: Path, work: Path) -> dict[str, Any]:
    """Runs one pipeline and gives its wall time, its steps' costs, and what they add up to."""
    arguments: dict[str, Any] = {"data": str(data), "production": str(served)}
    if name == "retrain":
        arguments["candidates"] = str(work / "candidates")
    begin, worked = time.monotonic(), _processor_seconds()
    outcome = run_pipeline(name, arguments, work)
    wall, worked = time.monotonic() - begin, _processor_seconds() - worked
    if outcome.exit_code:
        raise SystemExit(f"{name} failed: {outcome.summary['error']}")
    steps = outcome.summary["steps"]
    return {
        "pipeline": name,
        "wall_seconds": round(wall, 1),
        "processor_seconds": round(worked, 1),
        "import_share": round(sum(step["import_seconds"] for step in steps) / wall, 3),
        "peak_mb": max(step["peak_mb"] for step in steps),
        "steps": steps,
    }


def _processor_seconds() -> float:
    """What this process and those that it has started and seen end have used of all processors."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


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
        sets: list[tuple[str, int, Path, Path]] = []
        if data and production:
            sets.append((data.name, sum(1 for _ in data.open("rb")) - 1, data, production))
        else:
            served = bootstrap(base)
            for count in rows or [12_000, 120_000, 1_200_000]:
                path = base / f"{count}.csv"
                generate_file(path, count, seed=0)
                sets.append((f"{count:,} rows", count, path, served))
        # opening MLflow's database for the first time is paid once per work folder, not once per run
        console.print("first run, not counted (it creates MLflow's database)")
        few = base / "few.csv"
        generate_file(few, 3_000, seed=1001)
        measure("evaluate", few, sets[0][3], base / "work")
        for label, count, path, served in sets:
            reckoned = ROW_BYTES[".csv"]
            console.print(f"{label}: {path.stat().st_size / count:.1f} bytes a row; {reckoned:g} are reckoned with")
            for name in pipeline or ["retrain", "evaluate", "monitor"]:
                console.print(f"{name} on {label} ...")
                results.append({"data": label, "rows": count, **measure(name, path, served, base / "work")})
    _show(results)
    _show_needs(results)
    if out:
        out.write_text(json.dumps(results, indent=1))


def bootstrap(base: Path) -> Path:
    """A production folder of our own."""
    first = base / "first.csv"
    generate_file(first, 3_000, seed=1000)
    outcome = run_pipeline(
        "retrain",
        {"data": str(first), "production": "", "candidates": str(base / "first"), "algorithm": "dense"},
        base / "work",
    )
    package = Path(outcome.summary["candidate_uri"])
    assert production.present(package)
    return package


def _show(results: list[dict[str, Any]]) -> None:
    for result in results:
        table = Table(title=f"{result['pipeline']}, {result['data']}", title_justify="left")
        for column in ("step", "wall s", "share", "imports s", "peak MB", "expected MB"):
            table.add_column(column, justify="left" if column == "step" else "right")
        for step in result["steps"]:
            table.add_row(
                step["step"],
                f"{step['wall_seconds']:.1f}",
                f"{step['wall_seconds'] / result['wall_seconds']:.0%}",
                f"{step['import_seconds']:.1f}",
                f"{step['peak_mb']:.0f}",
                _expected(step["step"], result["rows"]),
            )
        table.add_section()
        total = sum(step["import_seconds"] for step in result["steps"])
        share = f"{total:.1f} ({result['import_share']:.0%})"
        table.add_row("whole run", f"{result['wall_seconds']:.1f}", "100%", share, f"{result['peak_mb']:.0f}")
        console.print(table)
        console.print(f"{result['processor_seconds']:.1f} s of processor time")


def _expected(step: str, rows: int) -> str:
    return f"{NEEDS[step].at(rows):.0f}" if step in NEEDS else ""


def _show_needs(results: list[dict[str, Any]]) -> None:
    """Each step's line through its peaks, beside the one by which runs in a cluster are sized."""
    table = Table(title="memory by rows: measured, and as in pipelines.memory", title_justify="left")
    for column in ("step", "fixed MB", "kB a row", "fixed MB there", "kB a row there", ""):
        table.add_column(column, justify="left" if column == "step" else "right")
    for name, need in NEEDS.items():
        peaks = [
            (result["rows"], step["peak_mb"]) for result in results for step in result["steps"] if step["step"] == name
        ]
        if not peaks:
            continue
        over = max(peak - need.at(rows) for rows, peak in peaks)
        own = ("", "")
        (least, _), (most, highest) = min(peaks), max(peaks)
        if least < most:
            slope = (highest - max(peak for rows, peak in peaks if rows == least)) / (most - least)
            own = (f"{max(peak - slope * rows for rows, peak in peaks):.0f}", f"{slope * 1000:.2f}")
        row = (name, *own, f"{need.fixed:.0f}", f"{need.per_row:.2f}")
        table.add_row(*row, f"{over:.0f} MB more than expected" if over > 0 else "")
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
