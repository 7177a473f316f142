"""What reading an experiment's logs takes, by their lines: `python -m benchmarks.exposures`.

The pipeline `experiment` on logs of one line a client and an outcome each, as a day to come of an experiment that
begins in an hour: the step that reads them, by the clock, with its peak memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.experiment_fixtures import DEFINITION, write_logs

LINES = (12_000, 120_000, 600_000)


def mlops(*args: object) -> str:
    """What the command prints; its error ends the benchmark."""
    command = [sys.executable, "-c", "from mlops.cli.app import main; main()", *map(str, args)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def measure(lines: int, folder: Path) -> tuple[float, float]:
    """Of the step that reads logs of so many lines: seconds, and peak memory in MB."""
    start = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    folder.mkdir()
    definition = folder / "experiment.json"
    definition.write_text(json.dumps({**DEFINITION, "start": start.isoformat(), "planned_clients": lines}))
    options = write_logs(folder, 0.01, start, lines)
    place = ("--work-dir", folder / "work")
    mlops("experiment", "start", definition, *place)
    summary = json.loads(mlops("run", "experiment", *options, *place, "--json"))
    step = next(each for each in summary["steps"] if each["step"] == "experiment")
    return step["wall_seconds"], step["peak_mb"]


def main() -> None:
    """Prints a row a size, and what a line takes between the smallest and the largest."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lines", type=int, nargs="+", default=LINES)
    sizes = sorted(parser.parse_args().lines)
    print("| lines | seconds | peak MB |\n|---:|---:|---:|")
    found = []
    with tempfile.TemporaryDirectory() as place:
        for lines in sizes:
            found.append(measure(lines, Path(place) / str(lines)))
            print(f"| {lines:,} | {found[-1][0]:.1f} | {found[-1][1]:.0f} |", flush=True)
    if len(sizes) > 1:
        seconds, mb = (last - first for first, last in zip(found[0], found[-1], strict=True))
        more = sizes[-1] - sizes[0]
        print(f"\n{1e6 * seconds / more:.0f} s a million lines, {1000 * mb / more:.2f} kB of memory a line")


if __name__ == "__main__":
    main()
